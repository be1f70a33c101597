"""Makes nbval fit for a course.

- a dead kernel fails at once, rather than when the cell's time is over;
- after a cell that fails, the other cells of its notebook are skipped: one failure a notebook, not twenty;
- a trailing `;` hides a result, as in JupyterLab;
- a notebook that takes far longer than its header says fails;
- the notebooks that took longest the last time start first, and a run ends with a list of the slowest.
"""

import json
import pathlib
import time
from queue import Empty
from typing import Any

import pytest
from nbval.kernel import RunningKernel
from nbval.plugin import IPyNbCell

collect_ignore = ["src"]
TIMES = pathlib.Path(__file__).parents[1] / ".notebook-seconds.json"
run_cell = IPyNbCell.runtest


def await_reply(self: Any, msg_id: str, timeout: float | None = None) -> None:
    """Waits for the answer a second at a time, and looks in between whether the kernel still lives."""
    end = time.monotonic() + (float("inf") if timeout is None else timeout)
    while (left := end - time.monotonic()) > 0:
        try:
            message = self.get_message(stream="shell", timeout=min(1.0, left))
        except Empty:
            if not self.is_alive():
                raise RuntimeError("the kernel died; was the memory full?") from None
            continue
        if message["parent_header"].get("msg_id") == msg_id:
            return
    raise Empty


def execute_cell_input(self: Any, cell_input: str, allow_stdin: bool | None = None) -> str:
    """Runs a cell as JupyterLab does: only with `store_history` does IPython heed a trailing `;`."""
    return self.kc.execute(cell_input, store_history=True, allow_stdin=allow_stdin, stop_on_error=False)


def runtest(self: Any) -> None:
    """Runs a cell unless an earlier one of its notebook failed, and holds the notebook to its time."""
    book = self.parent
    if getattr(book, "broken", False):
        pytest.skip("an earlier cell of this notebook failed")
    start = time.perf_counter()
    try:
        run_cell(self)
    except Exception:
        book.broken = True
        raise
    book.seconds = getattr(book, "seconds", 0.0) + time.perf_counter() - start
    promised = book.nb.metadata.get("minitok", {}).get("seconds", 60)
    # Two notebooks share a slower machine, so only a gross overrun counts.
    if book.seconds > 30 + 4 * promised:
        book.broken = True
        raise AssertionError(f"{book.name} has run for {book.seconds:.0f} s; its header says {promised} s")


RunningKernel.await_reply = await_reply
RunningKernel.execute_cell_input = execute_cell_input
IPyNbCell.runtest = runtest


def seconds_before() -> dict[str, float]:
    """How long each notebook took the last time on this machine."""
    return json.loads(TIMES.read_text(encoding="utf-8")) if TIMES.exists() else {}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    before = seconds_before()
    items.sort(key=lambda item: -before.get(item.nodeid.split("::")[0], 0.0))


def pytest_terminal_summary(terminalreporter: Any) -> None:
    taken: dict[str, float] = {}
    for outcome in ("passed", "failed"):
        for report in terminalreporter.stats.get(outcome, []):
            name = report.nodeid.split("::")[0]
            if name.endswith(".ipynb"):
                taken[name] = round(taken.get(name, 0.0) + report.duration, 1)
    if not taken:
        return
    TIMES.write_text(json.dumps(seconds_before() | taken, indent=0), encoding="utf-8")
    terminalreporter.section("slowest notebooks")
    for name, seconds in sorted(taken.items(), key=lambda item: -item[1])[:10]:
        terminalreporter.line(f"{seconds:7.1f} s  {name}")
