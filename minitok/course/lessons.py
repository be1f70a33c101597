"""Notebooks from text: notebooks/src/<folder>/<name>.py is edited; notebooks/<folder>/<name>.ipynb is made.

A source is a jupytext py:percent file whose first cell is markdown and starts with `# Title`. `building` makes
the notebook from it, with the generated header cell below the title; `rules` says what CI demands of the result.
"""

import hashlib
import math
import pathlib
import re
import tomllib
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from minitok import files
from minitok.course import dependencies

if TYPE_CHECKING:
    from nbformat import NotebookNode

NOTEBOOKS = files.ROOT / "notebooks"
SOURCES = NOTEBOOKS / "src"
SECONDS = (5, 10, 15, 30, 60, 120, 300)


def source_of(notebook: pathlib.Path) -> pathlib.Path:
    """The text source of `notebooks/<folder>/<name>.ipynb`."""
    return notebook.parents[1] / "src" / notebook.parent.name / f"{notebook.stem}.py"


def notebook_of(source: pathlib.Path) -> pathlib.Path:
    """The notebook that is made from `notebooks/src/<folder>/<name>.py`."""
    return source.parents[2] / source.parent.name / f"{source.stem}.ipynb"


def solutions_of(notebook: pathlib.Path) -> pathlib.Path:
    """The solutions to the exercises of `notebooks/<folder>/<name>.ipynb`, whether they are there or not."""
    return notebook.parents[1] / "src" / "solutions" / notebook.parent.name / f"{notebook.stem}.py"


def source_hash(text: str) -> str:
    """The first 16 hexadecimal digits of the SHA-256 of a source's text.

    >>> source_hash("# %%")
    '05a70dc62cf3aa65'
    """
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def read_source(source: pathlib.Path) -> "NotebookNode":
    """The source as a notebook that was not run, without a header; `ValueError` where it has no `# Title`."""
    import jupytext

    notebook = jupytext.reads(source.read_text(encoding="utf-8"), fmt="py:percent")
    first = notebook.cells[0] if notebook.cells else None
    if first is None or first.cell_type != "markdown" or not re.match(r"# \S", first.source):
        raise ValueError(f"{source} starts with no markdown cell `# Title`")
    return notebook


def is_header(cell: "NotebookNode") -> bool:
    """Whether a cell is the generated one below the title."""
    return "header" in cell.metadata.get("tags", [])


def words(text: str) -> int:
    """How many words a reader reads: whatever holds a letter or a digit, addresses of links left out.

    >>> words("A **bold** [link](https://example.org/a/b), 2 = 1 + 1")
    6
    """
    return sum(bool(re.search(r"\w", part)) for part in re.sub(r"\]\([^)]*\)", "]", text).split())


def reading_minutes(notebook: "NotebookNode") -> int:
    """Minutes to read a notebook at 180 words a minute and half a minute for each code cell."""
    texts = [cell.source for cell in notebook.cells if cell.cell_type == "markdown" and not is_header(cell)]
    code = sum(cell.cell_type == "code" for cell in notebook.cells)
    return math.ceil(sum(map(words, texts)) / 180 + code / 2)


def rounded_seconds(cpu: int | float) -> int:
    """The step of `SECONDS` that holds a run time, or whole minutes above the last.

    >>> rounded_seconds(8.2), rounded_seconds(10.4), rounded_seconds(301)
    (10, 15, 360)
    """
    return next((step for step in SECONDS if cpu <= step), math.ceil(cpu / 60) * 60)


def steady(measured: int | float, before: int | float | None) -> int | float:
    """A measured cost, with one decimal; what was recorded before stays unless it has clearly changed.

    >>> steady(8.24, None), steady(9.6, before=8.2), steady(10.7, before=8.2), steady(5.0, before=8.2)
    (8.2, 8.2, 10.7, 5.0)
    """
    if before is not None and before / 1.4 - 0.3 < measured <= before * 1.25 + 0.3:
        return before
    return round(measured, 1)


def badge(notebook: pathlib.Path) -> str:
    """The link to Colab, or nothing as long as pyproject.toml names no repository on GitHub."""
    project = tomllib.loads((files.ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    repository = project.get("urls", {}).get("Repository", "")
    if not repository.startswith("https://github.com/"):
        return ""
    address = repository.replace("https://github.com/", "https://colab.research.google.com/github/").rstrip("/")
    return f" · [Open in Colab]({address}/blob/main/notebooks/{notebook.parent.name}/{notebook.name})"


def header(minutes: int, cpu: int | float, badge: str = "") -> "NotebookNode":
    """The generated cell below the title; `cpu`: the CPU seconds of all cells, of which it tells the next step."""
    from nbformat.v4 import new_markdown_cell

    plural = "" if minutes == 1 else "s"
    text = f"*{minutes} minute{plural} to read, {rounded_seconds(cpu)} seconds to run on a CPU*{badge}"
    return new_markdown_cell(text, metadata={"tags": ["header"]})


def recorded(notebook: pathlib.Path) -> dict[str, Any]:
    """What the builder noted in a notebook: `source`, `depends`, `minutes`, `cpu`, `memory`; empty before the first."""
    import nbformat

    return nbformat.read(notebook, 4).metadata.get("minitok", {}) if notebook.exists() else {}


def label(notebook: pathlib.Path) -> str:
    """How a notebook is called in messages: its folder and its name."""
    return f"{notebook.parent.name}/{notebook.stem}"


def sources(paths: Iterable[str | pathlib.Path] = ()) -> list[pathlib.Path]:
    """The sources that paths name (sources, notebooks or folders of either), in order; all for no paths.

    Raises `FileNotFoundError` for a path that leads to no source.
    """
    found: list[pathlib.Path] = []
    for given in paths or [SOURCES]:
        path = pathlib.Path(given).resolve()
        path = source_of(path) if path.suffix == ".ipynb" else path
        if path.is_dir() and SOURCES not in (path, *path.parents):
            path = SOURCES / path.relative_to(NOTEBOOKS) if NOTEBOOKS in (path, *path.parents) else path
        several = sorted(path.rglob("*.py")) if path.is_dir() else [path]
        found += [source for source in several if SOURCES / "solutions" not in source.parents]
        if not several or not all(source.exists() for source in several):
            raise FileNotFoundError(f"{given} leads to no source of a notebook below {SOURCES}")
    return found


def is_fresh(source: pathlib.Path) -> bool:
    """Whether the notebook of a source was made from the text that the source holds now."""
    return recorded(notebook_of(source)).get("source") == source_hash(source.read_text(encoding="utf-8"))


def is_affected(source: pathlib.Path) -> bool:
    """Whether the source, or anything of minitok that it reaches, has changed since its notebook was made."""
    return not is_fresh(source) or recorded(notebook_of(source)).get("depends") != dependencies.digest(source)
