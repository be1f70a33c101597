"""Makes nbval fit for a course.

- a worker forks its kernels from one warm process; `--fresh-kernels` starts each of them anew;
- a dead kernel fails at once, rather than when the cell's time is over;
- after a cell that fails, the other cells of its notebook are skipped: one failure a notebook, not twenty;
- a trailing `;` hides a result, as in JupyterLab;
- a verdict that is not reproduced fails its cell (`MINITOK_JUDGE`);
- a notebook fails at three times the CPU seconds that its builder recorded, however busy the machine is;
- after the last cell the exercises are tried on their stubs and on their solutions;
- the notebooks that take longest start first.
"""

import os
import time
from collections.abc import Iterator
from queue import Empty
from typing import Any

import nbval.kernel
import pytest
from jupyter_client.manager import KernelManager
from nbval.kernel import RunningKernel
from nbval.plugin import IPyNbCell, IPyNbFile

from minitok.course import after, costs, execution, forks, lessons

collect_ignore = ["src"]
IMPORTS = 20  # CPU seconds that a kernel of its own may take for imports that a warm process has made
LEAST = 1.0  # CPU seconds below which a notebook's promise is not taken at its word
run_cell, cells_of = IPyNbCell.runtest, IPyNbFile.collect


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--fresh-kernels", action="store_true", help="start each kernel anew, fork none")
    costs.offer(parser)


def pytest_configure(config: pytest.Config) -> None:
    os.environ["MINITOK_JUDGE"] = "1"
    costs.use(config)
    if not is_fresh(config):
        nbval.kernel.KernelManager = lambda **given: forks.forked(KernelManager(**given))


def is_fresh(config: pytest.Config) -> bool:
    return config.getoption("--fresh-kernels") or not forks.possible()


def await_reply(self: Any, msg_id: str, timeout: float | None = None) -> None:
    """Waits for the answer a second at a time, and looks in between whether the kernel lives and keeps its limit."""
    end = time.monotonic() + (float("inf") if timeout is None else timeout)
    while (left := end - time.monotonic()) > 0:
        try:
            message = self.get_message(stream="shell", timeout=min(1.0, left))
        except Empty:
            if not self.is_alive():
                raise RuntimeError("the kernel died; was the memory full?") from None
            hold(self)
            continue
        if message["parent_header"].get("msg_id") == msg_id:
            return
    raise Empty


def execute_cell_input(self: Any, cell_input: str, allow_stdin: bool | None = None) -> str:
    """Runs a cell as JupyterLab does: only with `store_history` does IPython heed a trailing `;`."""
    return self.kc.execute(cell_input, store_history=True, allow_stdin=allow_stdin, stop_on_error=False)


def spent(kernel: Any) -> float:
    """The CPU seconds that a kernel has taken since its first cell."""
    now = execution.cpu_seconds(kernel.km.provisioner.pid)
    kernel.start = getattr(kernel, "start", now)
    return now - kernel.start


def hold(kernel: Any) -> None:
    """Fails where a kernel has taken far more than its notebook promises."""
    promised, limit = getattr(kernel, "limit", (0.0, float("inf")))
    if (cpu := spent(kernel)) > limit:
        raise AssertionError(f"this notebook has taken {cpu:.1f} CPU seconds; {promised} are recorded in it")


def runtest(self: Any) -> None:
    """Runs a cell unless an earlier one of its notebook failed, and holds the notebook to its time."""
    book, self.output_timeout = self.parent, 60
    if getattr(book, "broken", False):
        pytest.skip("an earlier cell of this notebook failed")
    promised = book.nb.metadata.get("minitok", {}).get("cpu", 20.0)
    spent(book.kernel)
    book.kernel.limit = promised, 3 * max(promised, LEAST) + (IMPORTS if is_fresh(self.config) else 0)
    try:
        run_cell(self)
        hold(book.kernel)
    except Exception:
        book.broken = True
        raise


def collect(self: Any) -> Iterator[pytest.Item]:
    """The cells of a notebook, and then its exercises."""
    yield from cells_of(self)
    yield Exercises.from_parent(self, name="exercises")


class Exercises(pytest.Item):
    """Asks the kernel what `after` asks: each check has to refuse its stub and to accept its solution."""

    costs: dict[str, float] | None = None

    def runtest(self) -> None:
        book: Any = self.parent
        if getattr(book, "broken", False):
            pytest.skip("a cell of this notebook failed")
        cpu = spent(book.kernel)
        question = after.question(book.nb, lessons.solutions_of(book.path))
        wait = {"reply": True, "timeout": self.config.getoption("--nbval-cell-timeout")}
        told = after.answer(book.kernel.kc.execute("", silent=True, user_expressions=question, **wait))
        self.costs = {"cpu": cpu, "checks": spent(book.kernel) - cpu, "memory": told["memory"]}
        assert not told["problems"], "\n".join(told["problems"])

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException]) -> str:
        return str(excinfo.value)

    def reportinfo(self) -> tuple[Any, int, str]:
        return self.path, 0, f"{self.path.name}::exercises"


RunningKernel.await_reply = await_reply
RunningKernel.execute_cell_input = execute_cell_input
IPyNbCell.runtest = runtest
IPyNbFile.collect = collect


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    books = {item.path for item in items if item.path.suffix == ".ipynb"}
    recorded = {path: lessons.recorded(path).get("cpu", 0.0) for path in books}
    items.sort(key=lambda item: -recorded.get(item.path, 0.0))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Any:
    report = yield
    if isinstance(item, Exercises):
        report.notebook = item.costs
    return report
