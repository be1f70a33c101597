"""Where a model is trained: one device, or several by Lightning Fabric, and in which precision."""

import os
import signal
import statistics
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch


def pick_device(name: str = "auto") -> torch.device:
    """`auto` is the GPU where there is one. Raises `ValueError` for a GPU that is not there, and for other names."""
    count = torch.cuda.device_count()
    if name == "auto":
        return torch.device("cuda" if count else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"device={name!r} came, expected auto, cpu, cuda or another device of torch") from error
    if device.type == "cuda" and (device.index or 0) >= count:
        raise ValueError(f"device={name!r} came, but torch sees {count or 'no'} GPU on this machine")
    return device


def launch(device: str, devices: int) -> Any:
    """A Lightning Fabric with its processes started.

    Raises `ValueError` for more GPUs than there are, and `ImportError` with the extra's name when Lightning is missing.
    """
    kind, count = pick_device(device).type, torch.cuda.device_count()
    if devices < 1:
        raise ValueError(f"devices={devices} came, expected at least 1")
    if kind == "cuda" and devices > count:
        raise ValueError(f"devices={devices} came, but torch sees {count} GPU on this machine")
    try:
        from lightning.fabric import Fabric
    except ImportError as error:
        raise ImportError("training on several devices needs Lightning: pip install 'minitok[train]'") from error
    fabric = Fabric(accelerator=kind, devices=devices, strategy="ddp")
    fabric.launch()
    return fabric


def is_first() -> bool:
    """Whether this is the only process or the first of several: the one that measures, writes and prints."""
    return not torch.distributed.is_initialized() or torch.distributed.get_rank() == 0


def stopped(fabric: Any, came: list[int]) -> bool:
    """Whether a signal came, to this process or, with a `fabric`, to any: then to all, so that they end together."""
    if fabric:
        anywhere = fabric.all_reduce(torch.tensor(float(len(came)), device=fabric.device), reduce_op="sum")
        if anywhere and not came:
            came.append(signal.SIGTERM)
    return bool(came)


def faster(runner: Any, where: torch.device, compile: bool) -> tuple[Any, AbstractContextManager[Any]]:
    """On a GPU the compiled model, where that is asked for, and bfloat16; elsewhere all as it is."""
    if where.type != "cuda":
        return runner, nullcontext()
    return torch.compile(runner) if compile else runner, torch.autocast("cuda", torch.bfloat16)


def interpreted() -> bool:
    """Whether Triton was asked to run its kernels in Python, without a GPU: `TRITON_INTERPRET=1`."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def median_seconds(call: Callable[[], Any], device: torch.device, seconds: float) -> float:
    """The median time of a call, repeated for `seconds` and at least three times after one to warm up."""
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    taken: list[float] = []
    call()
    while len(taken) < 3 or sum(taken) < seconds:
        wait()
        start = time.perf_counter()
        call()
        wait()
        taken.append(time.perf_counter() - start)
    return statistics.median(taken)
