"""How fast the house models and the scene renderer are on this machine: `minitok bench`."""

import functools
import platform
from collections.abc import Callable, Sequence
from typing import Any

import torch

from minitok.devices import median_seconds, pick_device
from minitok.tables import aligned

Call = Callable[[], Any]


def _forward(name: str, shape: tuple[int, ...], device: torch.device) -> Call:
    from minitok import house

    return functools.partial(house.recipe(name).build().eval().to(device), torch.rand(shape, device=device))


def _codes(name: str, b: int, device: torch.device) -> Call:
    from minitok import house

    codes, labels = torch.zeros(b, 255, dtype=torch.long, device=device), torch.zeros(b, dtype=torch.long)
    return functools.partial(house.recipe(name).build().eval().to(device), codes, labels.to(device))


def _scenes(b: int, device: torch.device) -> Call:
    from minitok.data import scenes

    return functools.partial(scenes.render, b, device=device)


# Speed does not depend on what a model has learnt, so none needs its checkpoint here.
CASES: dict[str, tuple[str, int, Callable[[torch.device], Call]]] = {
    "digits": ("images", 64, functools.partial(_forward, "digits", (64, 1, 28, 28))),
    "vit": ("images", 16, functools.partial(_forward, "vit", (16, 3, 64, 64))),
    "tokenizer": ("images", 8, functools.partial(_forward, "tokenizer", (8, 3, 64, 64))),
    "image_gpt": ("codes", 4 * 256, functools.partial(_codes, "image_gpt", 4)),
    "image_draft": ("codes", 4 * 256, functools.partial(_codes, "image_draft", 4)),
    "scenes": ("scenes", 64, functools.partial(_scenes, 64)),
}


@torch.no_grad()
def measure(names: Sequence[str] = (), device: str = "auto", seconds: float = 1.0) -> dict[str, Any]:
    """The median speed of each named case (of all, for no names), timed for `seconds` each.

    The models run forward in float32, with random weights. Raises `ValueError` for an unknown name.
    """
    for name in names:
        if name not in CASES:
            raise ValueError(f"no benchmark is called {name!r}; there are {', '.join(CASES)}")
    where, rows = pick_device(device), []
    for name in names or CASES:
        unit, count, make = CASES[name]
        speed = count / median_seconds(make(where), where, seconds)
        rows.append({"name": name, "batch": count, "unit": unit, "per_second": speed})
    machine = torch.cuda.get_device_name(where) if where.type == "cuda" else platform.machine()
    threads, versions = (
        torch.get_num_threads(),
        {"torch": torch.__version__, "python": platform.python_version()},
    )
    return {"device": machine, "threads": threads, **versions, "rows": rows}


def table(figures: dict[str, Any]) -> str:
    """What `measure` found, as a plain table below a line on the machine."""
    lines = [(row["name"], f"{row['per_second']:,.0f}", f"{row['unit']}/s") for row in figures["rows"]]
    machine = f"{figures['device']}, {figures['threads']} CPU threads, torch {figures['torch']}"
    return f"{machine}, Python {figures['python']}\n\n{aligned(lines)}"
