"""Running a notebook in a kernel of its own, and cleaning what the run leaves behind."""

import asyncio
import hashlib
import os
import pathlib
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from minitok.course import after

if TYPE_CHECKING:
    from nbformat import NotebookNode

WIDGET = "application/vnd.jupyter.widget-view+json"
CELL_TIMEOUT = 600


class CellError(Exception):
    """A cell of a notebook failed; the message names it and ends with its traceback."""


@dataclass(frozen=True)
class Cost:
    """What a notebook took: `cpu` seconds of its cells, the kernel's start left out; `memory` in MB at its peak.

    `checks`: the CPU seconds of its exercises, each tried on its stub and on its solution.
    """

    cpu: int | float
    memory: int | float
    checks: int | float


def cpu_seconds(kernel: int) -> float:
    """The CPU seconds that a process and its own processes have taken so far."""
    import psutil

    times = psutil.Process(kernel).cpu_times()
    return times.user + times.system + times.children_user + times.children_system


def _kernel(fresh: bool) -> Any:
    """A kernel of this very interpreter, whatever kernels the user has installed under the same name."""
    from ipykernel.kernelspec import get_kernel_dict
    from jupyter_client.kernelspec import KernelSpec, KernelSpecManager
    from jupyter_client.manager import AsyncKernelManager

    from minitok.course import forks

    class Here(KernelSpecManager):
        def get_kernel_spec(self, kernel_name: str) -> KernelSpec:
            return KernelSpec(**get_kernel_dict())

    manager = AsyncKernelManager(kernel_name="python3", kernel_spec_manager=Here())
    return manager if fresh or not forks.possible() else forks.forked(manager)


def _told(error: Exception, cell: int) -> str:
    """What went wrong in a cell, with the tail of its traceback, uncoloured."""
    lines = re.sub(r"\x1b\[[0-9;]*m", "", str(error)).strip().splitlines()
    return "\n".join([f"cell {cell}: {type(error).__name__}", *(f"    {line}" for line in lines[-15:])])


async def _all_cells(client: Any, environment: dict[str, str], solutions: pathlib.Path | None) -> Cost:
    async with client.async_setup_kernel(env=environment, cleanup_kc=True):
        kernel = client.km.provisioner.pid
        start = cpu_seconds(kernel)
        for index, cell in enumerate(client.nb.cells):
            await client.async_execute_cell(cell, index, execution_count=client.code_cells_executed + 1)
        end = cpu_seconds(kernel)
        question = after.question(client.nb, solutions)
        wait = {"reply": True, "timeout": CELL_TIMEOUT}
        told = after.answer(await client.kc.execute("", silent=True, user_expressions=question, **wait))
        if told["problems"]:
            raise CellError("\n".join(["exercises", *told["problems"]]))
        return Cost(end - start, told["memory"], cpu_seconds(kernel) - end)


def run(
    notebook: "NotebookNode",
    folder: pathlib.Path,
    environment: dict[str, str],
    label: str = "",
    fresh: bool = False,
    solutions: pathlib.Path | None = None,
) -> Cost:
    """Runs all cells in place, then tries the exercises, and returns what that took.

    The kernel works in `folder`, on one thread, with `environment` added to ours. It is forked from a warm
    process where that is possible, and started anew where not, or if `fresh`. A `label` stands before a progress
    bar. Raises `CellError`, naming the cell, when a cell raises, when it takes longer than 10 minutes, or when
    the kernel dies, and when a check of an exercise takes a stub for right or refuses its solution (see `after`).
    """
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
    from tqdm import tqdm

    reached = 0

    def reach(cell_index: int, **_: Any) -> None:
        nonlocal reached
        bar.update(cell_index + 1 - reached)
        reached = cell_index + 1

    inherited = {name: value for name, value in os.environ.items() if name != "MINITOK_RECORD"}
    silent = None if label else True
    with tqdm(total=len(notebook.cells), desc=label, unit="cell", leave=False, disable=silent) as bar:
        client = NotebookClient(
            notebook,
            km=_kernel(fresh),
            timeout=CELL_TIMEOUT,
            extra_arguments=["--log-level=CRITICAL"],
            store_widget_state=False,
            record_timing=False,
            coalesce_streams=True,
            resources={"metadata": {"path": str(folder)}},
            on_cell_execute=reach,
        )
        try:
            return asyncio.run(_all_cells(client, {**inherited, "OMP_NUM_THREADS": "1", **environment}, solutions))
        except (CellExecutionError, CellTimeoutError, DeadKernelError) as error:
            raise CellError(_told(error, reached)) from error


def clean(notebook: "NotebookNode", **facts: str | int | float) -> None:
    """Removes what differs from run to run or needs a kernel to be shown; `facts` go into the metadata."""
    seen: dict[str, int] = {}
    for cell in notebook.cells:
        tags = cell.metadata.get("tags")
        cell.metadata = {"tags": tags} if tags else {}
        digest = hashlib.sha256(cell.source.encode()).hexdigest()[:8]
        seen[digest] = seen.get(digest, 0) + 1
        cell.id = digest if seen[digest] == 1 else f"{digest}-{seen[digest]}"
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if WIDGET not in output.get("data", {})]
    notebook.metadata.clear()
    notebook.metadata.update(
        kernelspec={"display_name": "Python 3", "language": "python", "name": "python3"},
        language_info={"name": "python"},
        minitok=facts,
    )
