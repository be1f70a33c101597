"""What CI demands of a finished notebook, as one read-only check: `problems(path)` names what is wrong."""

import ast
import math
import pathlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from minitok.course import execution, lessons, registry

if TYPE_CHECKING:
    from nbformat import NotebookNode

MAX_BYTES = 200_000
MAX_LINES = 12
MAX_WORDS, RECIPE_WORDS = 120, 240
FEWEST_CELLS = 10


@dataclass(frozen=True)
class Limits:
    """What a notebook may take at most: CPU seconds to run, minutes to read, code cells."""

    cpu: int
    minutes: int
    cells: int


LESSON, ROOMY = Limits(cpu=12, minutes=15, cells=22), Limits(cpu=20, minutes=20, cells=28)


def limits_of(path: pathlib.Path) -> Limits:
    """A paper's lesson has less room than a parent's, an overview or an opening notebook."""
    parents = {row.slug for row in registry.rows() if row.parent}
    roomy = path.parent.name == "00_start" or path.stem == "00_overview" or path.stem[3:] in parents
    return ROOMY if roomy else LESSON


def problems(path: pathlib.Path) -> list[str]:
    """What is wrong with a notebook and its source, one sentence each; an empty list for a good pair."""
    source = lessons.source_of(path)
    if not source.exists():
        return [f"has no source {source.parent.name}/{source.name}"]
    return [*faults(path), *excesses(path)]


def faults(path: pathlib.Path) -> list[str]:
    """How a notebook differs from its source, or from one that was run and proves something."""
    import nbformat

    notebook = nbformat.read(path, 4)
    return [*_pair(notebook, lessons.source_of(path)), *_run(notebook)]


def excesses(path: pathlib.Path) -> list[str]:
    """What a notebook has too much of, or too little."""
    import nbformat

    notebook, limits = nbformat.read(path, 4), limits_of(path)
    facts = notebook.metadata.get("minitok", {})
    code = sum(cell.cell_type == "code" for cell in notebook.cells)
    found = [*_cells(notebook)]
    if (size := path.stat().st_size) >= MAX_BYTES:
        found.append(f"has {size} bytes, {MAX_BYTES} or more")
    if code > limits.cells:
        found.append(f"has {code} code cells, more than {limits.cells}")
    if limits is LESSON and code < FEWEST_CELLS:
        found.append(f"has {code} code cells, fewer than {FEWEST_CELLS}")
    if (minutes := facts.get("minutes", 0)) > limits.minutes:
        found.append(f"takes {minutes} minutes to read, more than {limits.minutes}")
    if (cpu := facts.get("cpu", math.inf)) > limits.cpu:
        found.append(f"takes {cpu} CPU seconds, more than {limits.cpu}")
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
    if not any(counts):
        yield "has no cell that ran"
    if not any(isinstance(node, ast.Assert) for cell in code for node in ast.walk(ast.parse(cell.source))):
        yield "proves nothing: it holds no assert"
    if counts != list(range(1, len(code) + 1)):
        yield f"was not run top to bottom: its cells are numbered {counts}"
    if any(output.output_type == "error" for output in outputs):
        yield "holds an error"
    if told := [output.text.splitlines()[0] for output in outputs if output.get("name") == "stderr"]:
        yield f"warns its readers: {told[0]}"
    if "widgets" in notebook.metadata or any(execution.WIDGET in output.get("data", {}) for output in outputs):
        yield "holds the state of widgets"
    if re.search(r" at 0x[0-9a-f]{6,}", str(outputs)):
        yield "prints an object's address, which differs in every run"


def told_in(text: str) -> tuple[int, int]:
    """The words of a markdown cell and those of its recipe: without bare numbers, and without tables.

    >>> told_in("A b, 1 + 2.\\n## The recipe\\n1. Take c.\\n| d | e |\\n## Then\\nf")
    (4, 4)
    """
    plain = "\n".join(line for line in text.splitlines() if not line.startswith("|"))
    recipe = "".join(re.findall(r"^## The recipe$.*?(?=^## |\Z)", plain, flags=re.MULTILINE | re.DOTALL))
    plain_words, recipe_words = (
        lessons.words(" ".join(part for part in held.split() if re.search(r"[^\W\d_]", part)))
        for held in (plain, recipe)
    )
    return plain_words - recipe_words, recipe_words


def _cells(notebook: "NotebookNode") -> Iterator[str]:
    told, titles = 0, 0
    for number, cell in enumerate(notebook.cells, start=1):
        if cell.cell_type == "markdown":
            words, recipe = (0, 0) if lessons.is_header(cell) else told_in(cell.source)
            told += words
            if recipe > RECIPE_WORDS:
                yield f"has a recipe of {recipe} words in cell {number}, more than {RECIPE_WORDS}"
            titles += len(re.findall(r"^# \S", cell.source, flags=re.MULTILINE))
            continue
        if told > MAX_WORDS:
            yield f"says {told} words before cell {number}, more than {MAX_WORDS} between two code cells"
        if (lines := sum(bool(line.strip()) for line in cell.source.splitlines())) > MAX_LINES:
            yield f"has {lines} lines in cell {number}, more than {MAX_LINES}"
        told = 0
    if titles != 1:
        yield f"has {titles} lines `# Title`, not one"
