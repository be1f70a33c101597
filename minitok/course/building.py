"""Making notebooks: a source is run top to bottom in a kernel of its own, cleaned and written, with a header.

Building a notebook twice gives the same file: what differs from run to run is left out, and recorded costs move
only when they have clearly changed.
"""

import base64
import pathlib
import sys
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from minitok import files
from minitok.course import dependencies, execution, lessons

if TYPE_CHECKING:
    from nbformat import NotebookNode


def build(source: pathlib.Path, fresh: bool = False, quiet: bool = False) -> execution.Cost:
    """Makes, runs, cleans and writes the notebook of one source; returns what it took to run.

    `fresh` starts a new kernel rather than forking a warm one. Imports then count as costs, so what was
    recorded before stays. Raises `ValueError` or `CellError` as `read_source` and `execution.run` do; the old
    notebook then stays.
    """
    import nbformat

    target, text = lessons.notebook_of(source), source.read_text(encoding="utf-8")
    notebook, record = lessons.read_source(source), {"MINITOK_RECORD": "1"}
    target.parent.mkdir(parents=True, exist_ok=True)
    bar = "" if quiet else lessons.label(target)
    cost = execution.run(notebook, target.parent, record, bar, fresh, lessons.solutions_of(target))
    facts = _facts(notebook, cost, lessons.recorded(target), fresh)
    notebook.cells.insert(1, lessons.header(facts["minutes"], facts["cpu"], lessons.badge(target)))
    execution.clean(notebook, source=lessons.source_hash(text), depends=dependencies.digest(source), **facts)
    nbformat.validate(notebook)
    files.write(target, nbformat.writes(notebook) + "\n")
    for name, picture in banners(notebook):
        files.write(target.with_suffix(f".{name}"), picture)
    return cost


def _facts(notebook: "NotebookNode", cost: execution.Cost, before: dict[str, Any], fresh: bool) -> dict[str, Any]:
    cpu, memory = (lessons.steady(getattr(cost, name), before.get(name)) for name in ("cpu", "memory"))
    kept = {name: before[name] for name in ("cpu", "memory") if fresh and name in before}
    return {"minutes": lessons.reading_minutes(notebook), "cpu": cpu, "memory": round(memory), **kept}


def banners(notebook: "NotebookNode") -> list[tuple[str, bytes]]:
    """The picture that a cell tagged `banner` shows, as (ending, bytes): it goes beside the notebook."""
    cells = [cell for cell in notebook.cells if "banner" in cell.metadata.get("tags", [])]
    data = [output.get("data", {}) for cell in cells for output in cell.outputs]
    return [(kind[6:], base64.b64decode(held[kind])) for held in data for kind in held if kind.startswith("image/")]


def build_all(
    paths: Iterable[str | pathlib.Path] = (), jobs: int = 1, fresh: bool = False, affected: bool = False
) -> int:
    """Builds the notebooks that `paths` name, or for no paths those whose source has changed, `jobs` at a time.

    `affected`: those of the paths, or of all, whose source or what it reaches in minitok has changed. Those whose
    source changed come first, and of these the longest. Prints a line for each and returns how many failed. A
    notebook that fails keeps its old file, and its error is printed.
    """
    named = list(paths)
    chosen = sorted(lessons.sources(named), key=_need)
    if affected or not named:
        wanted = lessons.is_affected if affected else lambda source: not lessons.is_fresh(source)
        chosen = [source for source in chosen if wanted(source)]
    with ThreadPoolExecutor(jobs) as pool:
        failed = sum(not made for made in pool.map(lambda source: _told(source, fresh, quiet=jobs > 1), chosen))
    if not chosen:
        print("every notebook is up to date")
    return failed


def _need(source: pathlib.Path) -> tuple[bool, float]:
    """What comes first is the least: changed sources, and of these those that took longest the last time."""
    return lessons.is_fresh(source), -lessons.recorded(lessons.notebook_of(source)).get("cpu", 0.0)


def _told(source: pathlib.Path, fresh: bool, quiet: bool) -> bool:
    """Builds the notebook of a source and prints what came of it; returns whether it was made."""
    target = lessons.notebook_of(source)
    try:
        cost = build(source, fresh, quiet)
    except (ValueError, execution.CellError) as error:
        print(f"failed: {lessons.label(target)}: {error}", file=sys.stderr, flush=True)
        return False
    size = target.stat().st_size / 1000
    taken = f"{cost.cpu:6.1f} + {cost.checks:4.1f} CPU s  {cost.memory:5.0f} MB  {size:4.0f} kB"
    print(f"{taken}  {lessons.label(target)}", flush=True)
    return True
