"""What to read before what: made from the line "**Read first:**" of each notebook's source."""

import json
import re
from pathlib import Path
from typing import NamedTuple

from minitok import files
from minitok.course import registry
from minitok.tables import aligned

LINK = re.compile(r"\]\(([^)\s#]+\.ipynb)(?:#[^)]*)?\)")
NAMED = re.compile(r"(?<!\[)`(?:\d\d_\w+/)?\d\d_\w+(?:\.ipynb)?`(?!\])")


class Step(NamedTuple):
    """A notebook on the way: its path below `notebooks`, its title, and the minutes that it takes to read."""

    notebook: str
    title: str
    minutes: int


def sources() -> list[Path]:
    """The sources of all notebooks, in order; none in an installed package."""
    found = sorted((files.ROOT / "notebooks" / "src").glob("[0-9]*/*.py"))
    return [path for path in found if "solutions" not in path.parts]


def words(source: Path) -> str:
    """The markdown of a source, without the comment signs."""
    cells = re.split(r"^# %%", source.read_text(encoding="utf-8"), flags=re.MULTILINE)
    told = [cell.partition("\n")[2] for cell in cells if cell.lstrip().startswith("[markdown]")]
    return "\n".join(re.sub(r"^# ?", "", text, flags=re.MULTILINE) for text in told)


def links(source: Path, text: str) -> list[Path]:
    """The sources of the notebooks that a text of `source` links to, in order, there or not."""
    found = [(source.parent / target).resolve() for target in LINK.findall(text)]
    return list(dict.fromkeys(path.with_suffix(".py") for path in found))


def first(source: Path) -> list[Path]:
    """The sources of what a notebook says to read first."""
    line = re.search(r"^\*\*Read first:\*\*(.*?)(?:\n\s*\n|\Z)", words(source), flags=re.MULTILINE | re.DOTALL)
    return links(source, line[1]) if line else []


def way(source: Path, above: tuple[Path, ...] = ()) -> list[Path]:
    """What to read, in order, to the source itself. Raises `ValueError` for a circle or a link to no notebook."""
    if source in above or not source.is_file():
        what = "a circle" if source in above else "no notebook"
        raise ValueError(f"Read first leads to {what}: {' <- '.join(path.stem for path in (source, *above))}")
    before = [step for earlier in first(source) for step in way(earlier, (source, *above))]
    return list(dict.fromkeys([*before, source]))


def step(source: Path) -> Step:
    """A notebook's path, title and minutes (0 where it was not built yet)."""
    title = re.search(r"^# (.+)$", words(source), flags=re.MULTILINE)
    notebook = source.parents[2] / source.parent.name / f"{source.stem}.ipynb"
    facts = (
        json.loads(notebook.read_text(encoding="utf-8"))["metadata"].get("minitok", {}) if notebook.is_file() else {}
    )
    return Step(f"{source.parent.name}/{notebook.name}", title[1] if title else source.stem, facts.get("minutes", 0))


def path(slug: str) -> list[Step]:
    """What to read before a lesson, in order, and the lesson itself.

    Raises `ValueError` for an unknown slug or a planned lesson, `FileNotFoundError` in an installed package.
    """
    source = registry.places(slug)["source"]
    if not source.is_file():
        if not (files.ROOT / "notebooks").is_dir():
            raise FileNotFoundError("the notebooks are not here: an installed package holds none")
        raise ValueError(f"{slug} is planned: it has no notebook yet")
    return [step(source) for source in way(source)]


def path_table(slug: str) -> str:
    """The path to a lesson as text: a line a notebook, and the minutes of all."""
    steps = path(slug)
    lines = [(f"{i}.", s.title, s.notebook, f"{s.minutes} min") for i, s in enumerate(steps, start=1)]
    return f"{aligned(lines)}\n\nIn all: {sum(s.minutes for s in steps)} minutes."
