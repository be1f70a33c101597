"""What a network answers with fewer tokens: how often right, how loyal to itself, how far moved, at what cost."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from minitok.tables import aligned, shown


@dataclass(frozen=True)
class Row:
    """What became of the answers, photograph by photograph, and what it costs.

    `correct` and `same` say whether the answer is the label, or the network's own with all tokens; `bits` is how far
    the answer moved, `sum_c p_c log2 (p_c / q_c)` with p from all tokens. `flops` is the layers' cost as a share of
    that with all tokens, `own` what the method itself computes, as a share of the same.
    """

    correct: Tensor
    same: Tensor
    bits: Float[Tensor, "b"]
    flops: float = 1.0
    own: float = 0.0

    @property
    def right(self) -> float:
        """Photographs named rightly, in percent."""
        return 100 * float(self.correct.float().mean())

    @property
    def loyal(self) -> float:
        """Photographs named as with all tokens, in percent."""
        return 100 * float(self.same.float().mean())

    @property
    def moved(self) -> float:
        """How far the answers moved, in bits a photograph."""
        return float(self.bits.mean())


def row(
    logits: Float[Tensor, "b v"],
    before: Float[Tensor, "b v"],
    labels: Int[Tensor, "b"],
    flops: float = 1.0,
    own: float = 0.0,
) -> Row:
    """The row of answers `logits`, which were `before` with all tokens and should be `labels`.

    >>> sure, unsure = torch.tensor([[50.0, 0.0]]), torch.tensor([[0.0, 0.0]])
    >>> row(unsure, sure, torch.tensor([1])).moved, row(sure, sure, torch.tensor([1])).right
    (1.0, 0.0)
    """
    p, q = before.log_softmax(-1), logits.log_softmax(-1)
    bits = (p.exp() * (p - q)).sum(-1) / math.log(2)
    said = logits.argmax(-1)
    return Row(said == labels, said == before.argmax(-1), bits, flops, own)


def mean(rows: Sequence[Row]) -> Row:
    """The mean of several rows over the same photographs, such as draws of lots."""
    first = rows[0]
    correct, same, bits = (
        torch.stack([getattr(row, name).float() for row in rows]).mean(0) for name in ("correct", "same", "bits")
    )
    return Row(correct, same, bits, first.flops, first.own)


def gap(ours: Row, other: Row) -> tuple[float, float]:
    """By how many bits the other moved further than ours, and twice the standard error of that.

    The photographs are the same, so the error is that of the differences: a gap above it is no chance.
    """
    apart = other.bits - ours.bits
    return float(apart.mean()), 2 * float(apart.std() / len(apart) ** 0.5)


def table(rows: Mapping[str, Row]) -> str:
    """Rows by name, as text."""
    head = ("", "right (%)", "as before (%)", "moved (bits)", "layers' FLOPs (%)", "method's own (%)")
    lines = [
        (name, f"{row.right:.1f}", f"{row.loyal:.1f}", f"{row.moved:.3f}", shown(100 * row.flops), shown(100 * row.own))
        for name, row in rows.items()
    ]
    return aligned([head, *lines])
