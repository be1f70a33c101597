"""The commands on papers and on data: what they do, and their options."""

import argparse
import json


def add_papers(command: argparse.ArgumentParser) -> None:
    """The options of `minitok papers`."""
    command.add_argument("slug", nargs="?", help="show the facts and the verdict of this paper")
    command.add_argument("--chapter", metavar="NAME", help="only the papers of this chapter")
    command.add_argument("--status", metavar="STATUS", help="only papers that are working, or planned")
    command.add_argument("--json", action="store_true", help="print JSON rather than a table")
    command.add_argument("--stale", action="store_true", help="rather list what is no longer as it was measured")


def papers(given: argparse.Namespace) -> None:
    """Prints a table of papers, or the card of one, or what is stale."""
    from minitok import papers

    if given.stale:
        print(papers.stale_table())
        return
    rows = papers.rows(chapter=given.chapter, status=given.status)
    if given.slug:
        paper = papers.get(given.slug)
        if paper not in rows:
            raise ValueError(f"{paper.slug} is of the chapter {paper.chapter}, and {papers.status(paper.slug)}")
        rows = [paper]
    if given.json:
        print(json.dumps(papers.as_dicts(rows), indent=2, ensure_ascii=False))
    else:
        print(papers.card(given.slug) if given.slug else papers.table(rows))


def add_check(command: argparse.ArgumentParser) -> None:
    """The options of `minitok check`."""
    command.add_argument("slug", help="the lesson, such as tome, or one part of it, such as tome.match")
    command.add_argument("version", metavar="FILE.py:NAME", help="your function or class")


def check(given: argparse.Namespace) -> int:
    """Says what the library's tests say of a reader's version; 0 when it is right, else 1."""
    from minitok import papers
    from minitok.course.check import load

    told = papers.check(given.slug, load(given.version))
    print(told)
    return 0 if told.startswith("right") else 1


def add_path(command: argparse.ArgumentParser) -> None:
    """The options of `minitok path`."""
    command.add_argument("slug", help="the lesson that you want to read")


def path(given: argparse.Namespace) -> None:
    """Prints what to read before a lesson, in order, with minutes."""
    from minitok import papers

    print(papers.path_table(given.slug))


def data(given: argparse.Namespace) -> None:
    """Brings all data into the cache, or lists it."""
    from minitok.data import clothing, wheels

    if not given.list:
        wheels.prefetch()
        if given.clothing:
            clothing.load("test")
        return
    for name, wheel in wheels.WHEELS.items():
        print(f"{name:20} {wheel.size_mb:6.1f} MB  {wheel.licence}")
