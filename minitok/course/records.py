"""What was measured once and is not made again by CI, and what of it is no longer as it was measured."""

import json
from pathlib import Path
from typing import NamedTuple

from minitok import files
from minitok.course import dependencies, registry

# The folders below data, and the module that makes a record there.
MAKERS = {"leagues": "minitok/stages/{}", "checkpoints": "minitok/house/{}", "bench": "minitok/course/{}"}
KINDS = {"leagues": "league", "checkpoints": "model", "bench": "bench"}
UNKNOWN = "made before digests were kept: what it depended on is not known"


class Stale(NamedTuple):
    """A record that is no longer as it was measured: its kind (verdict, league, model, bench), its name, and why."""

    kind: str
    name: str
    why: str


def depends(folder: str, name: str) -> dict[str, str]:
    """The digests of all that a record of `data/<folder>` depends on, now; the record itself and its weights left out.

    Raises `FileNotFoundError` where no module makes it.
    """
    stem = files.ROOT / MAKERS[folder].format(name)
    for path in (stem.with_suffix(".py"), stem / "__init__.py"):
        if path.is_file():
            own = {f"data/{folder}/{name}.json", f"data/{folder}/{name}.safetensors"}
            return {file: mark for file, mark in dependencies.digests(path).items() if file not in own}
    raise FileNotFoundError(f"no module {MAKERS[folder].format(name)} makes {name} of data/{folder}")


def stamp(folder: str, name: str, found: dict[str, str], run: Path, shipped: bool) -> None:
    """Notes in the record NAME.json of a run, and in the project's own when it was `shipped`, what it depended on.

    `found` is `depends()` from before it was made.
    """
    for path in [run / f"{name}.json", *([files.shipped(folder, f"{name}.json")] if shipped else [])]:
        facts = json.loads(path.read_text(encoding="utf-8")) | {"depends": found}
        files.write(path, json.dumps(facts, indent=2) + "\n")


def stale() -> list[Stale]:
    """What is no longer as it was measured, in a clone: verdicts, then leagues, models and benches.

    A verdict is held to its own module and notebook, since CI measures it again; the others to all that they depend on.
    """
    if not files.in_checkout():
        raise FileNotFoundError("only a clone of the project can tell: an installed package holds no notebooks")
    slugs = [row.slug for row in registry.rows() if registry.record(row.slug)]
    changed = "its module or its notebook has changed since"
    found = [Stale("verdict", slug, changed) for slug in slugs if not registry.is_fresh(slug)]
    for folder in MAKERS:
        for path in sorted(files.shipped(folder).glob("*.json")):
            if why := _why(folder, path):
                found.append(Stale(KINDS[folder], path.stem, why))
    return found


def _why(folder: str, path: Path) -> str | None:
    before = json.loads(path.read_text(encoding="utf-8")).get("depends")
    if before is None:
        return UNKNOWN
    try:
        changed = dependencies.changes(before, depends(folder, path.stem))
    except FileNotFoundError as error:
        return str(error)
    more = f" and {len(changed) - 5} more" if len(changed) > 5 else ""
    return f"changed since: {', '.join(changed[:5])}{more}" if changed else None
