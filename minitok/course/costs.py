"""A plugin of pytest, `--costs`: what tests or notebooks took, as a table at the end and in the file .costs.json.

Costs are CPU seconds, so that two runs side by side, or a busy machine, change them little. The last lines say what
they would be once all lessons are there.
"""

import json
import os
import sys
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from minitok import files

NOTEBOOKS = 245
HOUSE = ("course", "data", "house", "repo", "root", "viz", "browser")  # tests that more lessons do not multiply
_mark = [0.0]


def offer(parser: pytest.Parser) -> None:
    """Makes the option known; a conftest calls this, and `use` when all options are read."""
    parser.addoption("--costs", action="store_true", help="end with a table of CPU seconds, also in .costs.json")


def use(config: pytest.Config) -> None:
    """Puts the plugin to work where it is asked for."""
    if config.getoption("--costs"):
        config.pluginmanager.register(sys.modules[__name__], "costs")


def _passed() -> float:
    """The CPU seconds of this process and of those that it has waited for, since this was last called."""
    now, before = sum(os.times()[:4]), _mark[0]
    _mark[0] = now
    return now - before


def pytest_runtest_logstart() -> None:
    """Leaves out what was before the test."""
    _passed()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_logreport(report: Any) -> None:
    """Notes, in the process that ran it, the cost of a test's set-up, of its call, and of what comes after."""
    if not hasattr(report, "cpu"):
        report.cpu = _passed()


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Prints the table and writes the file."""
    stats = terminalreporter.stats
    reports = [report for kind in stats.values() for report in kind if hasattr(report, "cpu")]
    books = {report.nodeid.split("::")[0]: report.notebook for report in reports if getattr(report, "notebook", None)}
    tests: Counter[str] = Counter()
    for report in reports:
        if not report.nodeid.split("::")[0].endswith(".ipynb"):
            tests["/".join(report.nodeid.split("::")[0].split("/")[:-1])] += report.cpu
    taken = {"notebooks": books, "tests": {name: round(cpu, 2) for name, cpu in tests.most_common()}}
    path = terminalreporter.config.rootpath / ".costs.json"
    before = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    files.write(path, json.dumps(before | {name: costs for name, costs in taken.items() if costs}, indent=1) + "\n")
    terminalreporter.section("CPU seconds")
    lessons = len({report.nodeid.split("::")[0] for report in reports if _of_a_lesson(report.nodeid)})
    for line in [*_books(books), *_tests(taken["tests"], lessons)]:
        terminalreporter.line(line)


def _of_a_lesson(nodeid: str) -> bool:
    parts = nodeid.split("::")[0].split("/")
    return parts[0] == "tests" and parts[1] not in (*HOUSE, "contracts", "stages")


def _books(books: dict[str, dict[str, float]]) -> Iterator[str]:
    if not books:
        return
    for name, cost in sorted(books.items(), key=lambda item: -item[1]["cpu"]):
        yield f"{cost['cpu']:7.1f} s  + {cost['checks']:4.1f} s of exercises  {cost['memory']:5.0f} MB  {name}"
    total = sum(cost["cpu"] + cost["checks"] for cost in books.values())
    yield f"{total:7.1f} s  {len(books)} notebooks"
    yield _promise(total * NOTEBOOKS / len(books), "notebooks")


def _tests(tests: dict[str, float], lessons: int) -> Iterator[str]:
    if not tests:
        return
    for name, cpu in tests.items():
        yield f"{cpu:7.1f} s  {name}"
    yield f"{sum(tests.values()):7.1f} s  all tests"
    fixed = sum(cpu for name, cpu in tests.items() if name.split("/")[0] != "tests" or name.split("/")[-1] in HOUSE)
    if lessons:
        grown = fixed + (sum(tests.values()) - fixed) * NOTEBOOKS / lessons
        yield _promise(grown, "lessons' tests")


def _promise(cpu: float, of: str) -> str:
    return f"{cpu:7.1f} s  {NOTEBOOKS} {of}: {cpu / 120:.0f} minutes on two cores"
