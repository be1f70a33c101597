"""What all recipes of the house share: the options of a run, batches on a device, evaluation in chunks."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from minitok import files
from minitok.train import Plan


@dataclass(frozen=True)
class Options:
    """What the caller of a recipe may choose. `steps=None` keeps the recipe's own number."""

    steps: int | None = None
    seed: int = 0
    device: str = "auto"
    devices: int = 1
    progress: bool = True

    def apply(self, plan: Plan) -> Plan:
        """The recipe's plan with this run's seed, and its steps where they are given."""
        return replace(plan, seed=self.seed, steps=plan.steps if self.steps is None else self.steps)

    def check_shipping(self) -> None:
        """Raises `ValueError` where a result must not become the project's: outside a clone, or of fewer steps."""
        if not files.in_checkout():
            raise ValueError("ship: this is an installed minitok, and only a clone of the project can take new files")
        if self.steps is not None:
            raise ValueError(f"ship: steps={self.steps} makes a rehearsal, and only a whole run is shipped")

    def where(self) -> dict[str, Any]:
        """The arguments of `fit` that say where to train."""
        return {"device": self.device, "devices": self.devices, "progress": self.progress}


def batches(device: torch.device, *tensors: Tensor) -> Callable[[int], list[Tensor]]:
    """Moves tensors of one length to the device and returns a function that draws b random rows of each."""
    held = [t.to(device) for t in tensors]

    def draw(b: int) -> list[Tensor]:
        rows = torch.randint(len(held[0]), (b,), device=device)
        return [t[rows] for t in held]

    return draw


@torch.no_grad()
def in_chunks(function: Callable[[Tensor], Tensor], x: Tensor, size: int = 128) -> Tensor:
    """`function` over the rows of x, some at a time, without gradients."""
    return torch.cat([function(part) for part in x.split(size)])
