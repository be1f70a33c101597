"""Running a notebook in a kernel of its own, and cleaning what the run leaves behind."""

import hashlib
import os
import pathlib
import re
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nbformat import NotebookNode

WIDGET = "application/vnd.jupyter.widget-view+json"
CELL_TIMEOUT = 600


class CellError(Exception):
    """A cell of a notebook failed; the message names it and ends with its traceback."""


def _kernel() -> Any:
    """A kernel of this very interpreter, whatever kernels the user has installed under the same name."""
    from ipykernel.kernelspec import get_kernel_dict
    from jupyter_client.kernelspec import KernelSpec, KernelSpecManager
    from jupyter_client.manager import AsyncKernelManager

    class Here(KernelSpecManager):
        def get_kernel_spec(self, kernel_name: str) -> KernelSpec:
            return KernelSpec(**get_kernel_dict())

    return AsyncKernelManager(kernel_name="python3", kernel_spec_manager=Here())


def _told(error: Exception, cell: int) -> str:
    """What went wrong in a cell, with the tail of its traceback, uncoloured."""
    lines = re.sub(r"\x1b\[[0-9;]*m", "", str(error)).strip().splitlines()
    return "\n".join([f"cell {cell}: {type(error).__name__}", *(f"    {line}" for line in lines[-15:])])


def run(notebook: "NotebookNode", folder: pathlib.Path, environment: dict[str, str], label: str) -> float:
    """Runs all cells in place, with a progress bar, and returns the seconds that it took.

    The kernel works in `folder`, on one thread, with `environment` added to ours. Raises `CellError`,
    naming the cell, when a cell raises, when it takes longer than 10 minutes, or when the kernel dies.
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
    start = time.perf_counter()
    with tqdm(total=len(notebook.cells), desc=label, unit="cell", leave=False, disable=None) as bar:
        client = NotebookClient(
            notebook,
            km=_kernel(),
            timeout=CELL_TIMEOUT,
            extra_arguments=["--log-level=ERROR"],
            store_widget_state=False,
            record_timing=False,
            coalesce_streams=True,
            resources={"metadata": {"path": str(folder)}},
            on_cell_execute=reach,
        )
        try:
            client.execute(cleanup_kc=True, env={**inherited, "OMP_NUM_THREADS": "1", **environment})
        except (CellExecutionError, CellTimeoutError, DeadKernelError) as error:
            raise CellError(_told(error, reached)) from error
    return time.perf_counter() - start


def clean(notebook: "NotebookNode", **facts: str | int) -> None:
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
