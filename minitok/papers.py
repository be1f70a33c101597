"""The registry as one uses it: rows and cards for the terminal, citations, verdicts, the README's table."""

import html
import re
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from minitok import files
from minitok.course.measures import Measure, better, not_worse
from minitok.course.registry import Chapter, Paper, chapter, chapters, get, places, rows, source_hash
from minitok.course.registry import status_of as status
from minitok.course.verdicts import Verdict, recorded_verdict, verdict
from minitok.viz.tables import aligned, shown

__all__ = [
    "Chapter",
    "Measure",
    "Paper",
    "Verdict",
    "as_dicts",
    "better",
    "card",
    "chapter",
    "chapter_table",
    "chapters",
    "cite",
    "fill_readme",
    "get",
    "not_worse",
    "places",
    "readme_table",
    "recorded_verdict",
    "rows",
    "source_hash",
    "status",
    "table",
    "update_readme",
    "verdict",
]

BEGIN, END = "<!-- papers:begin -->", "<!-- papers:end -->"
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
    return [asdict(paper) | {"status": status(paper.slug), "outcome": _outcome(paper)} for paper in papers]


def table(papers: Sequence[Paper]) -> str:
    """The papers as a plain table, a line each, with a line of counts at the end."""
    head = ("lesson", "slug", "name", "year", "arXiv", "status", "verdict")
    lines = []
    for paper in papers:
        number = f"{chapter(paper.chapter).number:02}.{paper.lesson:02}"
        facts = (number, paper.slug, paper.name, str(paper.year or "-"), paper.arxiv or "-")
        lines.append((*facts, status(paper.slug), _outcome(paper) or ""))
    return f"{aligned([head, *lines])}\n\n{_counts(papers)}" if lines else _counts(papers)


def card(slug: str) -> str:
    """All that is known of one paper as plain text: facts, where its files are, and its recorded verdict."""
    paper, home = get(slug), chapter(get(slug).chapter)
    year = f", {paper.year}" if paper.year else ""
    links = [paper.url, f"https://github.com/{paper.repo}" if paper.repo else None]
    lines = [paper.name, f"{paper.title}{year}", *filter(None, links), ""]
    lines += [f"Lesson {paper.lesson} of chapter {home.number}, {home.slug}: {home.title}"]
    lines += [home.problem, "", f"Status: {status(slug)}"]
    found = [
        (f"  {place}", _relative(path), "" if path.is_file() else "missing") for place, path in places(slug).items()
    ]
    lines.append(aligned(found))
    if places(slug)["verdict"].is_file():
        lines += ["", str(recorded_verdict(slug))]
        if status(slug) == "planned":
            lines.append("It may be stale: the lesson is not complete, or has changed since.")
    return "\n".join(lines)


def chapter_table(progress: bool = True) -> str:
    """The map of the course in Markdown: each chapter, what it asks, how many lessons it has (and how many work)."""
    table = [f"| | chapter | what it asks | {'working' if progress else 'lessons'} |", "|---:|---|---|---:|"]
    for home in chapters():
        count = str(len(rows(home.slug)))
        if progress:
            count = f"{len(rows(home.slug, 'working'))} of {count}"
        table.append(f"| {home.number} | `{home.slug}` | {_markdown(home.problem)} | {count} |")
    return "\n".join(table)


def readme_table() -> str:
    """The README's part on the papers, in Markdown: a table of the chapters, then a folded table for each."""
    folded = [_folded(home) for home in chapters()]
    return "\n\n".join([f"{_counts(rows())} The parents are in italics.", chapter_table(), *folded])


def fill_readme(text: str) -> str:
    """`text` with `readme_table()` between its two markers.

    Raises `ValueError` when they are not there, once and in order.
    """
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise ValueError(f"the README needs one line {BEGIN} and, below it, one line {END}")
    return f"{text[: text.index(BEGIN)]}{BEGIN}\n\n{readme_table()}\n\n{text[text.index(END) :]}"


def update_readme(path: Path | None = None) -> None:
    """Brings the papers' part of the project's README, or of the file at `path`, up to date."""
    readme = path or files.ROOT / "README.md"
    files.write(readme, fill_readme(readme.read_text(encoding="utf-8")))


def _folded(home: Chapter) -> str:
    lines = ["| | method | paper | verdict |", "|---:|---|---|---|"]
    for paper in rows(home.slug):
        name, title = _markdown(paper.name), _markdown(paper.title)
        if status(paper.slug) == "working":
            name = f"[{name}]({_relative(places(paper.slug)['notebook'])})"
        method = f"*{name}*" if paper.parent else name
        source = f"[{title}]({paper.url}), {paper.year}" if paper.url else "no paper"
        lines.append(f"| {paper.lesson} | {method} | {source} | {_finding(paper)} |")
    title = f"<summary>{home.number}. {_markdown(home.title)} (<code>{home.slug}</code>)</summary>"
    return "\n".join(["<details>", title, "", *lines, "", "</details>"])


def _finding(paper: Paper) -> str:
    outcome = _outcome(paper)
    if outcome is None:
        return "planned"
    first = recorded_verdict(paper.slug).measures[0]
    unit = _markdown(f" {first.unit}" if first.unit else "")
    return f"{outcome}: {_markdown(first.name)} {shown(first.ours)}{unit} against {shown(first.baseline)}{unit}"


def _outcome(paper: Paper) -> str | None:
    return recorded_verdict(paper.slug).outcome if status(paper.slug) == "working" else None


def _counts(papers: Sequence[Paper]) -> str:
    total, parents = len(papers), sum(paper.parent for paper in papers)
    working = sum(status(paper.slug) == "working" for paper in papers)
    kinds = f"papers: {total - parents}, parents that they build on: {parents}"
    return f"Lessons: {total} ({kinds}). Working: {working}. Planned: {total - working}."


def _relative(path: Path) -> str:
    return path.relative_to(files.ROOT).as_posix()


def _markdown(text: str) -> str:
    return re.sub(r"([|\[\]*_`\\])", r"\\\1", html.escape(text, quote=False))
