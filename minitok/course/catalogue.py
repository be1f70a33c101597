"""The catalogue: all lessons with what came of them, as text, in Markdown, and in the README."""

import html
import re
from collections.abc import Sequence
from pathlib import Path

from minitok import files
from minitok.course.paths import first, sources, step
from minitok.course.records import UNKNOWN, stale
from minitok.course.registry import Chapter, Paper, chapters, places, rows, status_of
from minitok.course.verdicts import recorded_verdict
from minitok.tables import aligned, shown

BEGIN, STALE, END = "<!-- chapters:begin -->", "<!-- stale:begin -->", "<!-- end -->"


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
        slug = f"`{home.slug}`"
        if progress and (files.ROOT / "notebooks" / home.folder).is_dir():
            slug = f"[{slug}](notebooks/{home.folder})"
        table.append(f"| {home.number} | {slug} | {_markdown(home.problem)} | {count} |")
    return "\n".join(table)


def lessons_page() -> str:
    """The catalogue `notebooks/README.md` in Markdown: every lesson, and what to read before what."""
    start = [f"[{titled}]({name})" for name, titled, _ in map(step, sources()) if name.startswith("00_")]
    parts = [
        "# The lessons",
        f"{counts(rows())} Parents are in italics. `minitok path SLUG` says what to read before a lesson.",
        f"Start: {', '.join(start)}.",
        *[_chapter(home) for home in chapters()],
        "## What to read before what",
        "An arrow leads from what is read first. The tables above say the same in words.",
        f"```mermaid\n{_map()}\n```",
        f"## No longer as measured\n\n{STALE}\n\n```\n{stale_table()}\n```\n\n{END}",
        "*This page is made by `python do.py notebooks`.*\n",
    ]
    return "\n\n".join(parts)


def settled(page: str) -> str:
    """A page without what changes with every change of code: what is stale, which needs no page to be made anew."""
    return re.sub(f"{STALE}.*?{END}", "", page, flags=re.DOTALL)


def fill_readme(text: str) -> str:
    """The README's `text` with `chapter_table()` between its two markers.

    Raises `ValueError` when they are not there, once and in order.
    """
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise ValueError(f"the README needs one line {BEGIN} and, below it, one line {END}")
    part = f"{counts(rows())}\n\n{chapter_table()}"
    return f"{text[: text.index(BEGIN)]}{BEGIN}\n\n{part}\n\n{text[text.index(END) :]}"


def update_pages() -> None:
    """Brings the catalogue, and the chapters in the README, up to date."""
    readme = files.ROOT / "README.md"
    files.write(readme, fill_readme(readme.read_text(encoding="utf-8")))
    files.write(files.ROOT / "notebooks" / "README.md", lessons_page())


def _chapter(home: Chapter) -> str:
    own = rows(home.slug)
    there = [paper for paper in own if places(paper.slug)["notebook"].is_file()]
    parts = [f"## {home.number}. {_markdown(home.title)} (`{home.slug}`)", _markdown(home.problem)]
    overview = files.ROOT / "notebooks" / "src" / home.folder / "00_overview.py"
    if overview.is_file():
        name, title, minutes = step(overview)
        parts.append(f"All of them side by side: [{_markdown(title)}]({name}), {minutes} minutes.")
    if there:
        head = ["| | lesson | verdict | minutes | read before |", "|---:|---|---|---:|---|"]
        parts.append("\n".join([*head, *map(_lesson, there)]))
    planned = [paper for paper in own if paper not in there]
    if planned:
        lines = "\n".join(f"- Lesson {paper.lesson}, {_planned(paper)}" for paper in planned)
        parts.append(f"<details>\n<summary>Planned: {len(planned)}</summary>\n\n{lines}\n\n</details>")
    return "\n\n".join(parts)


def _lesson(paper: Paper) -> str:
    source = places(paper.slug)["source"]
    name, _, minutes = step(source)
    link = f"[{_markdown(paper.name)}]({name})"
    before = [f"[{_markdown(step(other).title.partition(':')[0])}]({step(other).notebook})" for other in first(source)]
    told = f"*{link}*" if paper.parent else link
    return f"| {paper.lesson} | {told} | {_finding(paper)} | {minutes} | {', '.join(before) or '-'} |"


def _planned(paper: Paper) -> str:
    title = f"{_markdown(paper.name)}: [{_markdown(paper.title)}]({paper.url})" if paper.url else _markdown(paper.name)
    return f"{title}, {paper.year}" if paper.year else title


def _map() -> str:
    """The map as a Mermaid flow chart: a box a chapter, an arrow from what is read first."""
    names = {places(paper.slug)["source"]: paper.name for paper in rows()}
    drawn = [source for source in sources() if first(source) or any(source in first(other) for other in sources())]
    lines = ["flowchart LR"]
    for folder in sorted({source.parent.name for source in drawn}):
        own = [source for source in drawn if source.parent.name == folder]
        titles = [names.get(source) or step(source).title.partition(":")[0] for source in own]
        boxes = [f'    {_mark(source)}["{title}"]' for source, title in zip(own, titles, strict=True)]
        lines += [f'  subgraph c{folder[:2]}["{folder[3:]}"]', *boxes, "  end"]
    return "\n".join(
        [*lines, *(f"  {_mark(other)} --> {_mark(source)}" for source in drawn for other in first(source))]
    )


def _mark(source: Path) -> str:
    return f"n{source.parent.name[:2]}{source.stem[:2]}"


def _finding(paper: Paper) -> str:
    found = outcome(paper)
    if found is None:
        return "to be measured again"
    measure = recorded_verdict(paper.slug).measures[0]
    unit = _markdown(f" {measure.unit}" if measure.unit else "")
    return f"{found}: {_markdown(measure.name)} {shown(measure.ours)}{unit} against {shown(measure.baseline)}{unit}"


def outcome(paper: Paper) -> str | None:
    """The outcome of a lesson's verdict; None while it is planned."""
    return recorded_verdict(paper.slug).outcome if status_of(paper.slug) == "working" else None


def counts(papers: Sequence[Paper]) -> str:
    """How many lessons there are, and how many of them work, in one line."""
    total, parents = len(papers), sum(paper.parent for paper in papers)
    working = sum(status_of(paper.slug) == "working" for paper in papers)
    kinds = f"papers: {total - parents}, parents that they build on: {parents}"
    return f"Lessons: {total} ({kinds}). Working: {working}. Planned: {total - working}."


def _markdown(text: str) -> str:
    return re.sub(r"([|\[\]*_`\\])", r"\\\1", html.escape(text, quote=False))
