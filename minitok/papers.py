"""The registry as one uses it: rows and cards for the terminal, citations, verdicts, the README's table."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from minitok import files
from minitok.course.catalogue import chapter_table, counts, outcome, stale_table, update_pages
from minitok.course.measures import Measure, better, not_worse
from minitok.course.paths import Step, path, path_table
from minitok.course.records import Stale, stale
from minitok.course.registry import Chapter, Paper, chapter, chapters, get, places, rows, source_hash
from minitok.course.registry import status_of as status
from minitok.course.verdicts import Verdict, recorded_verdict, verdict
from minitok.tables import aligned

__all__ = [
    "Chapter",
    "Measure",
    "Paper",
    "Stale",
    "Step",
    "Verdict",
    "as_dicts",
    "better",
    "card",
    "chapter",
    "chapter_table",
    "chapters",
    "check",
    "cite",
    "get",
    "not_worse",
    "path",
    "path_table",
    "places",
    "recorded_verdict",
    "rows",
    "source_hash",
    "stale",
    "stale_table",
    "status",
    "table",
    "update_pages",
    "verdict",
]

LATEX = {character: f"\\{character}" for character in "&%$#_{}"} | {
    "^": r"\^{}",
    "~": r"\~{}",
    "\\": r"\textbackslash{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
}


def cite(slug: str) -> str:
    r"""The paper as a BibTeX `@misc` entry, without authors: the registry does not hold them.

    >>> print(cite("fsq"))
    @misc{fsq2023,
      title = {{Finite Scalar Quantization: VQ-VAE Made Simple}},
      year = {2023},
      eprint = {2309.15505},
      archivePrefix = {arXiv},
      url = {https://arxiv.org/abs/2309.15505}
    }

    Raises `ValueError` for a baseline that has no paper.
    """
    paper = get(slug)
    if paper.arxiv is None:
        raise ValueError(f"{slug} ({paper.name}) has no paper to cite")
    fields = {
        "title": "{" + paper.title.translate(str.maketrans(LATEX)) + "}",
        "year": paper.year,
        "eprint": paper.arxiv,
        "archivePrefix": "arXiv",
        "url": paper.url,
    }
    body = ",\n".join(f"  {field} = {{{value}}}" for field, value in fields.items())
    return f"@misc{{{slug}{paper.year},\n{body}\n}}"


def as_dicts(papers: Sequence[Paper]) -> list[dict[str, Any]]:
    """The facts of each paper with its `status` and the `outcome` of its verdict (None while planned)."""
    return [asdict(paper) | {"status": status(paper.slug), "outcome": outcome(paper)} for paper in papers]


def check(slug: str, mine: Any) -> str:
    """A sentence that begins with "right" when the library's tests of a lesson pass with `mine`, else what is wrong.

    `mine` is your own function or class, and takes the place of the library's: of the method of the lesson `slug`, or
    of one part of it, as in `check("tome.match", mine)`. Errors are those of `minitok.course.check.check`.
    """
    from minitok.course import check as checking

    return checking.check(slug, mine)


def table(papers: Sequence[Paper]) -> str:
    """The papers as a plain table, a line each, with a line of counts at the end."""
    head = ("lesson", "slug", "name", "year", "arXiv", "status", "verdict")
    lines = []
    for paper in papers:
        number = f"{chapter(paper.chapter).number:02}.{paper.lesson:02}"
        facts = (number, paper.slug, paper.name, str(paper.year or "-"), paper.arxiv or "-")
        lines.append((*facts, status(paper.slug), outcome(paper) or ""))
    return f"{aligned([head, *lines])}\n\n{counts(papers)}" if lines else counts(papers)


def card(slug: str) -> str:
    """All that is known of one paper as plain text: facts, where its files are, and its recorded verdict."""
    paper, home = get(slug), chapter(get(slug).chapter)
    year = f", {paper.year}" if paper.year else ""
    links = [paper.url, f"https://github.com/{paper.repo}" if paper.repo else None]
    lines = [paper.name, f"{paper.title}{year}", *filter(None, links), ""]
    lines += [f"Lesson {paper.lesson} of chapter {home.number}, {home.slug}: {home.title}"]
    lines += [home.problem, "", f"Status: {status(slug)}"]
    found = [
        (f"  {place}", path.relative_to(files.ROOT).as_posix(), "" if path.is_file() else "missing")
        for place, path in places(slug).items()
    ]
    lines.append(aligned(found))
    if places(slug)["verdict"].is_file():
        lines += ["", str(recorded_verdict(slug))]
        if status(slug) == "planned":
            lines.append("It may be stale: the lesson is not complete, or has changed since.")
    return "\n".join(lines)
