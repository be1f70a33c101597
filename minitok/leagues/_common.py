"""What all leagues share: pieces of work that are kept as they are finished, so that a long run resumes."""

import json
import pathlib
import re
from collections.abc import Callable
from typing import Any

from minitok import files


def kept(folder: pathlib.Path, key: str, job: Callable[[], Any]) -> Any:
    """What `job()` returned under this key before, or returns now; kept as JSON in `folder`.

    Keys name the settings: another key is another piece of work.
    """
    path = folder / (re.sub(r"[^\w.=-]+", "_", key) + ".json")
    if path.exists():
        return json.loads(path.read_text(encoding="utf-8"))
    found = job()
    files.write(path, json.dumps(found) + "\n")
    return found
