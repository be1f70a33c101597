"""Notebooks from text: notebooks/src/<folder>/<name>.py is edited; notebooks/<folder>/<name>.ipynb is made.

A source is a jupytext py:percent file whose first cell is markdown and starts with `# Title`. The notebook
is the source with a generated header cell below the title, run top to bottom in a fresh kernel and cleaned,
so that building it twice gives the same file. `lesson_rules` says what CI demands of the result.
"""

import base64
import hashlib
import math
import pathlib
import re
import sys
import tomllib
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from minitok import files
from minitok.course import execution

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


def rounded_seconds(measured: float, before: int | None = None) -> int:
    """The step of `SECONDS` that holds a measured run time; `before` stays unless it is clearly wrong.

    >>> rounded_seconds(8.2), rounded_seconds(10.4), rounded_seconds(10.4, before=10)
    (10, 15, 10)
    """
    if before is not None and before / 3 < measured <= before * 1.2:
        return before
    return next((step for step in SECONDS if measured <= step), math.ceil(measured / 60) * 60)


def _badge(notebook: pathlib.Path) -> str:
    """The link to Colab, or nothing as long as pyproject.toml names no repository on GitHub."""
    project = tomllib.loads((files.ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    repository = project.get("urls", {}).get("Repository", "")
    if not repository.startswith("https://github.com/"):
        return ""
    address = repository.replace("https://github.com/", "https://colab.research.google.com/github/").rstrip("/")
    return f" · [Open in Colab]({address}/blob/main/notebooks/{notebook.parent.name}/{notebook.name})"


def header(minutes: int, seconds: int, badge: str = "") -> "NotebookNode":
    """The generated cell below the title."""
    from nbformat.v4 import new_markdown_cell

    plural = "" if minutes == 1 else "s"
    text = f"*{minutes} minute{plural} to read, {seconds} seconds to run on a CPU*{badge}"
    return new_markdown_cell(text, metadata={"tags": ["header"]})


def recorded(notebook: pathlib.Path) -> dict[str, Any]:
    """What the builder noted in a notebook: `source`, `seconds`, `minutes`; empty where there is none."""
    import nbformat

    return nbformat.read(notebook, 4).metadata.get("minitok", {}) if notebook.exists() else {}


def build(source: pathlib.Path) -> float:
    """Makes, runs, cleans and writes the notebook of one source; returns the seconds that it took to run.

    Raises `ValueError` or `CellError` as `read_source` and `execution.run` do; the old notebook then stays.
    """
    import nbformat

    target, text = notebook_of(source), source.read_text(encoding="utf-8")
    notebook = read_source(source)
    minutes = reading_minutes(notebook)
    target.parent.mkdir(parents=True, exist_ok=True)
    seconds = execution.run(notebook, target.parent, {"MINITOK_RECORD": "1"}, f"{target.parent.name}/{target.stem}")
    rounded = rounded_seconds(seconds, recorded(target).get("seconds"))
    notebook.cells.insert(1, header(minutes, rounded, _badge(target)))
    execution.clean(notebook, source=source_hash(text), seconds=rounded, minutes=minutes)
    nbformat.validate(notebook)
    files.write(target, nbformat.writes(notebook) + "\n")
    for name, picture in banners(notebook):
        files.write(target.with_suffix(f".{name}"), picture)
    return seconds


def banners(notebook: "NotebookNode") -> list[tuple[str, bytes]]:
    """The picture that a cell tagged `banner` shows, as (ending, bytes): it goes beside the notebook."""
    cells = [cell for cell in notebook.cells if "banner" in cell.metadata.get("tags", [])]
    data = [output.get("data", {}) for cell in cells for output in cell.outputs]
    return [(kind[6:], base64.b64decode(held[kind])) for held in data for kind in held if kind.startswith("image/")]


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


def build_all(paths: Iterable[str | pathlib.Path] = ()) -> int:
    """Builds the notebooks that `paths` name, or for no paths those whose source has changed.

    Prints a line for each and returns how many failed. A notebook that fails keeps its old file, and its
    error is printed.
    """
    named = list(paths)
    chosen = sources(named) if named else [source for source in sources() if not is_fresh(source)]
    failed = 0
    for source in chosen:
        target = notebook_of(source)
        label = f"{target.parent.name}/{target.name}"
        try:
            seconds = build(source)
            print(f"{seconds:6.1f} s  {target.stat().st_size / 1000:4.0f} kB  {label}", flush=True)
        except (ValueError, execution.CellError) as error:
            failed += 1
            print(f"failed: {label}: {error}", file=sys.stderr, flush=True)
    if not chosen:
        print("every notebook is up to date")
    return failed
