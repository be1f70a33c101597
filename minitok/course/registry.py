"""The facts of all lessons (`data/papers.toml`), where the files of each are, and what it has reached."""

import difflib
import functools
import hashlib
import json
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from minitok import files

STATUSES = ("working", "planned")


@dataclass(frozen=True)
class Chapter:
    """A chapter: number, slug (also of the package `minitok.<slug>`), title, and the problem it answers."""

    number: int
    slug: str
    title: str
    problem: str

    @property
    def folder(self) -> str:
        """The name of its folder of notebooks, such as `01_quantize`."""
        return f"{self.number:02}_{self.slug}"


@dataclass(frozen=True)
class Paper:
    """The facts of one lesson. `parent`: a method that listed papers build on, not one of the 199 itself.

    `year` and `arxiv` are None for a baseline that has no paper, `repo` (`owner/name` on GitHub) is None
    where the authors' code is not public or not known to us.
    """

    slug: str
    name: str
    title: str
    chapter: str
    lesson: int
    year: int | None = None
    arxiv: str | None = None
    repo: str | None = None
    parent: bool = False

    @property
    def url(self) -> str | None:
        """The paper's page on arXiv, or None."""
        return f"https://arxiv.org/abs/{self.arxiv}" if self.arxiv else None


def chapters() -> tuple[Chapter, ...]:
    """The chapters in the order of the course.

    >>> [chapter.folder for chapter in chapters()][:3]
    ['01_quantize', '02_image', '03_signal']
    """
    return _read(files.shipped("papers.toml"))[0]


def chapter(slug: str) -> Chapter:
    """The chapter of that slug. Raises `ValueError`, with the nearest slugs, when there is none."""
    known = {chapter.slug: chapter for chapter in chapters()}
    return known[_known("chapter", slug, known)]


def get(slug: str) -> Paper:
    """The paper of that slug. Raises `ValueError`, with the nearest slugs, when there is none.

    >>> get("fsq").title
    'Finite Scalar Quantization: VQ-VAE Made Simple'
    """
    papers = _read(files.shipped("papers.toml"))[1]
    return papers[_known("paper", slug, papers)]


def rows(chapter: str | None = None, status: str | None = None) -> list[Paper]:
    """All papers in the order of the course, or those of a `chapter`, or of a `status` (working, planned).

    Raises `ValueError` for a chapter or a status that does not exist.
    """
    chosen = list(_read(files.shipped("papers.toml"))[1].values())
    if chapter is not None:
        _known("chapter", chapter, [known.slug for known in chapters()])
        chosen = [paper for paper in chosen if paper.chapter == chapter]
    if status is not None:
        _known("status", status, STATUSES)
        chosen = [paper for paper in chosen if status_of(paper.slug) == status]
    return chosen


def places(slug: str) -> dict[str, Path]:
    """Where a lesson's files belong, there or not: module, notebook and its source, test, verdict, row."""
    paper = get(slug)
    folder, stem = chapter(paper.chapter).folder, f"{paper.lesson:02}_{slug}"
    return {
        "module": files.ROOT / "minitok" / paper.chapter / f"{slug}.py",
        "notebook": files.ROOT / "notebooks" / folder / f"{stem}.ipynb",
        "source": files.ROOT / "notebooks" / "src" / folder / f"{stem}.py",
        "test": files.ROOT / "tests" / paper.chapter / f"test_{slug}.py",
        "verdict": files.shipped("verdicts", f"{slug}.json"),
        "row": files.shipped("papers.toml"),
    }


def source_hash(slug: str) -> str:
    """16 hexadecimal digits of the SHA-256 over a lesson's module and its notebook's source.

    Line ends do not count. Raises `ValueError` when one of the two files is missing.
    """
    digest = hashlib.sha256()
    for place in ("module", "source"):
        path = places(slug)[place]
        if not path.is_file():
            raise ValueError(f"{slug} has no {place} yet: {path.relative_to(files.ROOT).as_posix()} is missing")
        digest.update(path.read_bytes().replace(b"\r\n", b"\n") + b"\0")
    return digest.hexdigest()[:16]


def record(slug: str) -> dict[str, Any] | None:
    """The recorded verdict as it stands in `data/verdicts/<slug>.json`, or None when there is none.

    Raises `ValueError`, naming the file, when it is not JSON.
    """
    path = places(slug)["verdict"]
    if not path.is_file():
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"data/verdicts/{slug}.json is not JSON: {error}") from error


def is_fresh(slug: str) -> bool:
    """Whether a verdict is recorded and was measured by the module and the notebook as they are now.

    An installed wheel holds no notebooks, so there a shipped verdict counts as fresh: a test of the project
    holds that none is stale when a wheel is built.
    """
    recorded = record(slug)
    if recorded is None or not files.in_checkout():
        return recorded is not None
    there = places(slug)
    return there["module"].is_file() and there["source"].is_file() and recorded["source"] == source_hash(slug)


def status_of(slug: str) -> str:
    """`working` when the lesson is complete and its verdict fresh, else `planned`. Computed, never stored.

    Complete: module, notebook, its source, test and verdict exist; in an installed wheel, which holds
    neither notebooks nor tests, module and verdict.
    """
    needed = ("module", "notebook", "source", "test", "verdict")
    if not files.in_checkout():
        needed = ("module", "verdict")
    there = places(slug)
    return "working" if all(there[place].is_file() for place in needed) and is_fresh(slug) else "planned"


@functools.cache
def _read(path: Path) -> tuple[tuple[Chapter, ...], dict[str, Paper]]:
    facts = tomllib.loads(path.read_text(encoding="utf-8"))
    papers = [Paper(**row) for row in facts["paper"]]
    return tuple(Chapter(**row) for row in facts["chapter"]), {paper.slug: paper for paper in papers}


def _known(kind: str, name: str, known: Iterable[str]) -> str:
    names = list(known)
    if name not in names:
        near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(near)}?" if near else f"{len(names)} are known, none is near"
        hint = f"there are {' and '.join(names)}" if len(names) <= 3 else hint
        raise ValueError(f"no {kind} {name!r}: {hint}")
    return name
