"""The catalogue: all lessons with what came of them, as text, in Markdown, and in the README."""

import html
import re
from collections.abc import Sequence
from pathlib import Path

from minitok import files
from minitok.course.records import UNKNOWN, stale
from minitok.course.registry import Chapter, Paper, chapters, places, rows, status_of
from minitok.course.verdicts import recorded_verdict
from minitok.viz.tables import aligned, shown

BEGIN, END = "<!-- papers:begin -->", "<!-- papers:end -->"


def stale_table() -> str:
    """What is no longer as it was measured, a line each, with the reason; and what to do."""
    found = stale()
    if not found:
        return "everything is as it was measured"
    ways = "python do.py notebooks (verdicts), league NAME --ship, train NAME --ship, bench --kernels"
    unknown = sum(record.why == UNKNOWN for record in found)
    counts = f"No longer as measured: {len(found) - unknown}. Not known: {unknown}."
    return f"{aligned(found, (10, 20, 70))}\n\n{counts} To measure anew: {ways}."


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
    return "\n\n".join([f"{counts(rows())} The parents are in italics.", chapter_table(), *folded])


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
        if status_of(paper.slug) == "working":
            name = f"[{name}]({_relative(places(paper.slug)['notebook'])})"
        method = f"*{name}*" if paper.parent else name
        source = f"[{title}]({paper.url}), {paper.year}" if paper.url else "no paper"
        lines.append(f"| {paper.lesson} | {method} | {source} | {_finding(paper)} |")
    title = f"<summary>{home.number}. {_markdown(home.title)} (<code>{home.slug}</code>)</summary>"
    return "\n".join(["<details>", title, "", *lines, "", "</details>"])


def _finding(paper: Paper) -> str:
    found = outcome(paper)
    if found is None:
        return "planned"
    first = recorded_verdict(paper.slug).measures[0]
    unit = _markdown(f" {first.unit}" if first.unit else "")
    return f"{found}: {_markdown(first.name)} {shown(first.ours)}{unit} against {shown(first.baseline)}{unit}"


def outcome(paper: Paper) -> str | None:
    """The outcome of a lesson's verdict; None while it is planned."""
    return recorded_verdict(paper.slug).outcome if status_of(paper.slug) == "working" else None


def counts(papers: Sequence[Paper]) -> str:
    """How many lessons there are, and how many of them work, in one line."""
    total, parents = len(papers), sum(paper.parent for paper in papers)
    working = sum(status_of(paper.slug) == "working" for paper in papers)
    kinds = f"papers: {total - parents}, parents that they build on: {parents}"
    return f"Lessons: {total} ({kinds}). Working: {working}. Planned: {total - working}."


def _relative(path: Path) -> str:
    return path.relative_to(files.ROOT).as_posix()


def _markdown(text: str) -> str:
    return re.sub(r"([|\[\]*_`\\])", r"\\\1", html.escape(text, quote=False))
