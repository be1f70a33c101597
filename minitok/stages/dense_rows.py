"""Rows of dense labels with fewer tokens: which shape, colour and digit each patch shows, and how much is right."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from minitok.house._answers import PARTS
from minitok.tables import aligned, shown

NAMES = ("shape", "colour", "digit")


@dataclass(frozen=True)
class Row:
    """What is said of patches, scene by scene.

    `both` counts for each class of each part the patches that show it and are said to, `either` those of which one is
    true; `correct` and `same` are the shares of patches of which all three parts are right, or as with all tokens.
    `flops` is the ViT's cost as a share of that with all tokens, `own` that of the method and of the way back.
    """

    both: Float[Tensor, "b classes"]
    either: Float[Tensor, "b classes"]
    correct: Float[Tensor, "b"]
    same: Float[Tensor, "b"]
    tokens: int = 256
    flops: float = 1.0
    own: float = 0.0
    needs: str = "nothing"

    def overlap(self, part: str) -> float:
        """The mean over the classes of a part of both / either (mIoU), in percent; classes that nobody saw are out."""
        return float(overlaps(self.both.sum(0), self.either.sum(0))[NAMES.index(part)])

    @property
    def miou(self) -> float:
        """The mean of the three parts' overlaps, in percent."""
        return float(overlaps(self.both.sum(0), self.either.sum(0)).mean())

    @property
    def right(self) -> float:
        """Patches of which shape, colour and digit are right, in percent."""
        return 100 * float(self.correct.mean())

    @property
    def loyal(self) -> float:
        """Patches of which all three are as with all tokens, in percent."""
        return 100 * float(self.same.mean())


def overlaps(both: Float[Tensor, "*b classes"], either: Float[Tensor, "*b classes"]) -> Float[Tensor, "*b 3"]:
    """The mean overlap of each part, in percent, from counts over all classes of all parts."""
    seen = (either > 0).double()
    each = 100 * both / either.clamp(min=1e-9) * seen
    means = [a.sum(-1) / s.sum(-1) for a, s in zip(each.split(PARTS, -1), seen.split(PARTS, -1), strict=True)]
    return torch.stack(means, -1)


def counted(said: Int[Tensor, "b n 3"], labels: Int[Tensor, "b n 3"], before: Int[Tensor, "b n 3"]) -> Row:
    """The row of what is `said` of patches that show `labels`, of which `before` was said with all tokens."""
    ours, truth = (
        torch.cat([F.one_hot(part, size) for part, size in zip(x.unbind(-1), PARTS, strict=True)], -1).bool()
        for x in (said, labels)
    )
    right, same = ((said == other).all(-1).double().mean(1) for other in (labels, before))
    return Row((ours & truth).sum(1).double(), (ours | truth).sum(1).double(), right, same)


def mean(rows: Sequence[Row]) -> Row:
    """The mean of several rows over the same scenes, such as draws of lots."""
    names = ("both", "either", "correct", "same")
    return replace(rows[0], **{name: torch.stack([getattr(row, name) for row in rows]).mean(0) for name in names})


def gap(ours: Row, other: Row) -> tuple[float, float]:
    """By how much our mIoU is above the other's, in points, and twice the standard error of that.

    An overlap is no mean over scenes, so each scene is left out in turn (the jackknife), for both rows alike.
    """

    def without(row: Row) -> Tensor:
        both, either = (x.sum(0) - x for x in (row.both, row.either))
        return overlaps(both, either).mean(-1)

    apart = without(ours) - without(other)
    error = ((len(apart) - 1) / len(apart) * (apart - apart.mean()).square().sum()) ** 0.5
    return ours.miou - other.miou, 2 * float(error)


def table(rows: Mapping[str, Row]) -> str:
    """Rows by their names, as text; overlaps are means over classes."""
    head = ("", "tokens", "mIoU %", *NAMES, "patches right %", "loyal %", "FLOPs %", "own %", "needs")
    lines: list[tuple[str, ...]] = [head]
    for name, row in rows.items():
        figures = (row.miou, *map(row.overlap, NAMES), row.right, row.loyal, 100 * row.flops, 100 * row.own)
        lines.append((name, str(row.tokens), *map(shown, figures), row.needs))
    return aligned(lines)
