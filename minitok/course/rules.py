"""What CI demands of a finished notebook, as one read-only check: `problems(path)` names what is wrong."""

import pathlib
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from minitok.course import execution, lessons

if TYPE_CHECKING:
    from nbformat import NotebookNode

MAX_BYTES = 250_000
MAX_LINES = 15
MAX_WORDS = 120
CODE_CELLS = range(10, 31)


def problems(path: pathlib.Path) -> list[str]:
    """What is wrong with a notebook and its source, one sentence each; an empty list for a good pair."""
    import nbformat

    source = lessons.source_of(path)
    if not source.exists():
        return [f"has no source {source.parent.name}/{source.name}"]
    notebook = nbformat.read(path, 4)
    found = [*_pair(notebook, source), *_run(notebook), *_cells(notebook)]
    size, code = path.stat().st_size, sum(cell.cell_type == "code" for cell in notebook.cells)
    if size >= MAX_BYTES:
        found.append(f"has {size} bytes, {MAX_BYTES} or more")
    lesson = not path.parent.name.startswith("00_") and not path.name.startswith("00_")
    if lesson and code not in CODE_CELLS:
        found.append(f"has {code} code cells, not {CODE_CELLS.start} to {CODE_CELLS.stop - 1}")
    return found


def _pair(notebook: "NotebookNode", source: pathlib.Path) -> Iterator[str]:
    def content(node: "NotebookNode") -> list[tuple[str, str, tuple[str, ...]]]:
        kept = [cell for cell in node.cells if not lessons.is_header(cell)]
        return [(cell.cell_type, cell.source, tuple(cell.metadata.get("tags", []))) for cell in kept]

    if notebook.metadata.get("minitok", {}).get("source") != lessons.source_hash(source.read_text(encoding="utf-8")):
        yield "was made from another version of its source: run `python do.py notebooks` on it"
    if content(notebook) != content(lessons.read_source(source)):
        yield "differs from its source: edit the source, then run `python do.py notebooks` on it"
    if [index for index, cell in enumerate(notebook.cells) if lessons.is_header(cell)] != [1]:
        yield "has no generated header below its title"


def _run(notebook: "NotebookNode") -> Iterator[str]:
    code = [cell for cell in notebook.cells if cell.cell_type == "code" and cell.source.strip()]
    outputs = [output for cell in code for output in cell.outputs]
    counts = [cell.execution_count for cell in code]
    if counts != list(range(1, len(code) + 1)):
        yield f"was not run top to bottom: its cells are numbered {counts}"
    if any(output.output_type == "error" for output in outputs):
        yield "holds an error"
    if "widgets" in notebook.metadata or any(execution.WIDGET in output.get("data", {}) for output in outputs):
        yield "holds the state of widgets"
    if re.search(r" at 0x[0-9a-f]{6,}", str(outputs)):
        yield "prints an object's address, which differs in every run"


def _cells(notebook: "NotebookNode") -> Iterator[str]:
    told, titles = 0, 0
    for number, cell in enumerate(notebook.cells, start=1):
        if cell.cell_type == "markdown":
            told += 0 if lessons.is_header(cell) else lessons.words(cell.source)
            titles += len(re.findall(r"^# \S", cell.source, flags=re.MULTILINE))
            continue
        if told > MAX_WORDS:
            yield f"says {told} words before cell {number}, more than {MAX_WORDS} between two code cells"
        if (lines := len(cell.source.splitlines())) > MAX_LINES:
            yield f"has {lines} lines in cell {number}, more than {MAX_LINES}"
        told = 0
    if titles != 1:
        yield f"has {titles} lines `# Title`, not one"
