"""What a judge of drafts saves and costs: by whole pictures, and by sums over all codes at a few places."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from minitok.speculate import Decoded
from minitok.tables import aligned


@dataclass(frozen=True)
class Row:
    """Pictures drawn by one judge: how they came about, and how they surprise image_gpt.

    `bits` is the surprise of each code above what image_gpt expects there, `spread` its standard deviation if
    image_gpt itself had drawn it. `seconds` are those of one processor thread.
    """

    runs: tuple[Decoded, ...]
    bits: Float[Tensor, "b n"]
    spread: Float[Tensor, "b n"]
    seconds: float

    @property
    def codes(self) -> Int[Tensor, "b n"]:
        """The pictures."""
        return torch.stack([run.tokens for run in self.runs])

    @property
    def calls(self) -> float:
        """Calls of image_gpt a picture."""
        return sum(run.calls for run in self.runs) / len(self.runs)

    @property
    def per_call(self) -> float:
        """Codes that one call gives: its own and the guesses that stay."""
        return sum(len(run.tokens) for run in self.runs) / sum(run.calls for run in self.runs)

    @property
    def surprise(self) -> float:
        """Bits a code above those expected: 0 for pictures of image_gpt, but for chance."""
        return float(self.bits.mean())

    @property
    def chance(self) -> float:
        """The standard deviation of `surprise`, if image_gpt itself had drawn."""
        return float(self.spread.square().sum().sqrt()) / self.spread.numel()


class Cost(NamedTuple):
    """A judge by sums over all codes at the stage's places, without chance.

    `kept`: guesses that stay, in percent; the others say how far what comes out is from p: `variation`, half the sum of
    absolute differences; `surprise`, in bits; `energy`, the energy distance of the codes' vectors, in thousandths.
    """

    kept: float
    variation: float
    surprise: float
    energy: float


def level(costs: Sequence[Cost], kept: float | int) -> Cost:
    """What a judge costs where it keeps so many percent of the guesses, between the settings that were weighed.

    >>> level([Cost(50, 0.0, 0.0, 0.0), Cost(70, 0.25, 1.0, 10.0)], 60)
    Cost(kept=60.0, variation=0.125, surprise=0.5, energy=5.0)

    Raises `ValueError` where no two settings enclose it.
    """
    for low, high in itertools.pairwise(costs):
        if low.kept <= kept <= high.kept and low.kept < high.kept:
            part = (kept - low.kept) / (high.kept - low.kept)
            return Cost(*(a + part * (b - a) for a, b in zip(low, high, strict=True)))
    raise ValueError(f"kept={kept} came, between no two of {[round(cost.kept, 1) for cost in costs]}")


def table(rows: Mapping[str, Row | Cost]) -> str:
    """Rows by name, as text: all of whole pictures, or all of sums."""
    if all(isinstance(row, Cost) for row in rows.values()):
        head = ("", "guesses kept (%)", "total variation", "surprise (bits)", "energy (1/1000)")
        lines = [
            (name, f"{row.kept:.1f}", f"{row.variation:.3f}", f"{row.surprise:+.3f}", f"{row.energy:.1f}")
            for name, row in rows.items()
            if isinstance(row, Cost)
        ]
        return aligned([head, *lines])
    head = ("", "pictures", "calls a picture", "codes a call", "surprise (bits)", "by chance")
    lines = [
        (
            name,
            str(len(row.runs)),
            f"{row.calls:.0f}",
            f"{row.per_call:.2f}",
            f"{row.surprise:+.2f}",
            f"{row.chance:.2f}",
        )
        for name, row in rows.items()
        if isinstance(row, Row)
    ]
    return aligned([head, *lines])
