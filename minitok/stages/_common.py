"""What leagues share: pieces of work that are kept, so that a long run resumes; time; what pictures are held to."""

import functools
import json
import pathlib
import re
import time
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from minitok import files
from minitok.data import clothing
from minitok.house.vit import cls_features


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


def cpu_seconds(job: Callable[[int], Any]) -> float:
    """CPU time of a job in one thread: the least of three runs; the job is given the number of the run."""
    threads, taken = torch.get_num_threads(), []
    torch.set_num_threads(1)
    for run in range(3):
        start = time.process_time()
        job(run)
        taken.append(time.process_time() - start)
    torch.set_num_threads(threads)
    return min(taken)


@functools.cache
def photograph_features() -> Float[Tensor, "n c"]:
    """The features of vit's CLS token of all test photographs of clothes, which Frechet distances are taken to."""
    return cls_features(clothing.load("test").images)
