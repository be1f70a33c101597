"""What rebuilt pictures are worth beside the photographs that they were made from: error, likeness, edges, the set."""

import functools
from collections.abc import Mapping
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from minitok import metrics
from minitok.house.vit import cls_features
from minitok.tables import aligned

ENOUGH = 300  # pictures, for a Frechet distance of vit's 192 features


@dataclass(frozen=True)
class Row:
    """How near pictures are to their photographs, each by each, and as a set; what is asked for is computed once.

    `features` are vit's of the photographs, where these are enough for a Frechet distance.
    """

    pictures: Float[Tensor, "b 3 H W"]
    photographs: Float[Tensor, "b 3 H W"]
    features: Float[Tensor, "b c"] | None = None

    @functools.cached_property
    def decibels(self) -> Float[Tensor, "b"]:
        """The PSNR of each."""
        return metrics.psnr(self.pictures, self.photographs)

    @property
    def psnr(self) -> float:
        """The mean PSNR, in decibels."""
        return float(self.decibels.mean())

    @functools.cached_property
    def ssim(self) -> float:
        """The mean SSIM: likeness of small windows, 1 for equal ones."""
        return float(metrics.ssim(self.pictures, self.photographs).mean())

    @property
    def edges(self) -> float:
        """The steps between neighbouring pixels, in percent of the photographs' (below 100: blurred)."""
        return 100 * steepness(self.pictures) / steepness(self.photographs)

    @functools.cached_property
    def frechet(self) -> float | None:
        """The Frechet distance of vit's CLS features; None where there are too few pictures to say it."""
        return None if self.features is None else metrics.frechet_distance(cls_features(self.pictures), self.features)


def steepness(pictures: Float[Tensor, "b c H W"]) -> float:
    """The root mean square step from a pixel to those below and at the right of it, the mean over pictures.

    >>> from torch import tensor
    >>> steepness(tensor([[[[0.0, 0.5], [0.0, 0.5]]]]))
    0.5
    """
    down, right = (pictures.diff(dim=axis).square().mean((1, 2, 3)) for axis in (2, 3))
    return float((down + right).sqrt().mean())


def gap(ours: Row, other: Row) -> tuple[float, float]:
    """By how many decibels ours is ahead of the other, and twice the standard error of that.

    The photographs are the same, so the error is that of the differences: a gap above it is no chance.
    """
    apart = ours.decibels - other.decibels
    return float(apart.mean()), 2 * float(apart.std() / len(apart) ** 0.5)


def table(rows: Mapping[str, Row]) -> str:
    """Rows by name, as text."""
    far = any(row.features is not None for row in rows.values())
    lines = [("", "PSNR (dB)", "SSIM", "edges (%)", *(["Frechet"] if far else []))]
    for name, found in rows.items():
        line = (name, f"{found.psnr:.1f}", f"{found.ssim:.2f}", f"{found.edges:.0f}")
        lines.append((*line, *([f"{found.frechet:.1f}" if found.frechet is not None else "-"] if far else [])))
    return aligned(lines)
