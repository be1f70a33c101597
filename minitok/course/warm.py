"""The warm process: it has imported what lessons have in common, and each kernel that is forked from it has that too.

`python -m minitok.course.warm` reads orders, a line of JSON each, and answers with the number of a new process that
becomes a kernel (`forks` is the other side of the pipe). It ends when the pipe does, and takes its kernels with it.
"""

import contextlib
import gc
import importlib
import importlib.util
import itertools
import json
import os
import pkgutil
import signal
import sys
from typing import Any

PACKAGES = ("minitok", "minitok.house", "minitok.stages", "minitok.viz")
KERNEL = ("IPython", "ipykernel.ipkernel", "ipykernel.kernelapp")
MODULES = (
    *(*KERNEL, "PIL.Image", "einops", "ipywidgets", "matplotlib.pyplot", "numpy", "pytest", "safetensors.torch"),
    *("skimage", "sklearn.cluster", "torch", "tqdm"),
)


def bare() -> None:
    """Imports what every kernel needs, and no more."""
    for name in KERNEL:
        importlib.import_module(name)


def up() -> None:
    """Imports what lessons have in common, and does once what imports more where it is first done.

    Random numbers, threads and the settings of matplotlib are left as a new process has them, and nothing is
    computed by gradients: torch forbids gradients in a fork once its own threads for them have started.
    """
    for name in MODULES:
        importlib.import_module(name)
    for name in PACKAGES:
        package = importlib.import_module(name)
        for module in pkgutil.iter_modules(package.__path__, f"{name}."):
            if not module.ispkg and module.name not in ("minitok.__main__", "minitok.cli"):
                importlib.import_module(module.name)
    _first_uses()


def _first_uses() -> None:
    import torch

    from minitok import metrics, viz

    viz.show(viz.bars({"one": 1.0}, "a first figure", "bars"))
    torch.optim.AdamW([torch.zeros(1, requires_grad=True)])
    metrics.flops(lambda: torch.zeros(1, 1) @ torch.zeros(1, 1))


def serve() -> dict[str, Any] | None:
    """Forks a process for each order that comes in; there it returns the order, and here None after the last.

    At the end the kernels that still run are killed, and what they have started.
    """
    running: list[int] = []
    for line in sys.stdin:
        running = [pid for pid in running if os.waitpid(pid, os.WNOHANG)[0] == 0]
        pid = os.fork()
        if pid == 0:
            return json.loads(line)
        running.append(pid)
        print(pid, flush=True)
    for pid, kill in itertools.product(running, (os.killpg, os.kill)):
        with contextlib.suppress(ProcessLookupError):
            kill(pid, signal.SIGKILL)
    return None


def become_kernel(order: dict[str, Any]) -> None:
    """Turns this process into the kernel of an order; returns when the kernel is shut down."""
    from ipykernel.kernelapp import IPKernelApp

    os.setsid()
    nothing = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2)[: 3 if order["quiet"] else 2]:
        os.dup2(nothing, stream)
    os.environ.clear()
    os.environ.update(order["environment"], JPY_PARENT_PID=str(os.getppid()))
    os.chdir(order["folder"])
    launcher = importlib.util.find_spec("ipykernel_launcher")
    sys.argv = [str(launcher and launcher.origin), *order["arguments"]]
    _begin_anew()
    app = IPKernelApp.instance()
    app.initialize()
    if widgets := sys.modules.get("ipywidgets"):
        widgets.load_ipython_extension(app.shell)
    app.start()


def _begin_anew() -> None:
    """Draws new seeds for the random numbers that a new process draws seeds for; Python's own does so in every fork."""
    if numpy := sys.modules.get("numpy"):
        numpy.random.seed()
    if torch := sys.modules.get("torch"):
        torch.default_generator.seed()


if __name__ == "__main__":
    del sys.path[0]
    (bare if sys.argv[1:] == ["cold"] else up)()
    gc.collect()
    gc.freeze()
    if (asked := serve()) is not None:
        become_kernel(asked)
