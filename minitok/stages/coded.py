"""What codes made of pictures: how near each came back, which codes were used, at how many bits."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from minitok.house.bottleneck import Bottleneck
from minitok.metrics import codebook_use, entropy_bits, perplexity, psnr
from minitok.tables import aligned


@dataclass(frozen=True)
class Row:
    """Held-out pictures as they came back, picture by picture, and the codes of their vectors.

    `decibels` is the PSNR of each picture. `codes` has one number a vector, of K, whatever a quantizer's groups; both
    are missing without codes. `model` is the autoencoder, so that a lesson can look into it.
    """

    decibels: Float[Tensor, "b"]
    codes: Int[Tensor, "b n"] | None = None
    K: int = 0
    bits: float = float("inf")
    model: Bottleneck | None = field(default=None, repr=False)

    @property
    def psnr(self) -> float:
        """The mean PSNR in decibels."""
        return float(self.decibels.mean())

    @property
    def used(self) -> float:
        """The codes that occur at least once, in percent of all."""
        return 0.0 if self.codes is None else 100 * codebook_use(self.codes, self.K)

    @property
    def entropy(self) -> float:
        """The bits a vector that a coder without context pays."""
        return 0.0 if self.codes is None else entropy_bits(self.codes, self.K)

    @property
    def even(self) -> float:
        """The perplexity: so many codes, if they were equally frequent, would have the same entropy."""
        return 0.0 if self.codes is None else perplexity(self.codes, self.K)


def whole(codes: Int[Tensor, "b n g"], K: int) -> Int[Tensor, "b n"]:
    """The codes of g groups as one number of K, the first group the least significant.

    >>> whole(torch.tensor([[[1, 2]]]), 16)
    tensor([[9]])
    """
    groups = codes.shape[-1]
    return (codes * round(K ** (1 / groups)) ** torch.arange(groups, device=codes.device)).sum(-1)


@torch.no_grad()
def row(model: Bottleneck, images: Float[Tensor, "b c H W"], k: int | None = None) -> Row:
    """The row of a trained autoencoder, from the codes alone; with `k` from the first k codes of each vector."""
    quantizer: Any = model.eval().quantizer
    parts = images.split(128)
    if quantizer is None:
        return Row(torch.cat([psnr(model.rebuild(part), part) for part in parts]), model=model)
    codes = [model.codes(part)[..., :k] for part in parts]
    painted = (model.picture(quantizer.decode(part)).clamp(0, 1) for part in codes)
    decibels = torch.cat([psnr(found, part) for found, part in zip(painted, parts, strict=True)])
    share = codes[0].shape[-1] / model.codes(images[:1]).shape[-1]
    K = round(2 ** (share * quantizer.bits))
    return Row(decibels, whole(torch.cat(codes), K), K, share * quantizer.bits, model)


def gap(ours: Row, other: Row) -> tuple[float, float]:
    """By how many decibels ours is nearer, and twice the standard error of that.

    The pictures are the same, so the error is that of the differences. It says how sure these two networks differ on
    other pictures; training them again, from another seed, moves the gap by more.
    """
    apart = ours.decibels - other.decibels
    return float(apart.mean()), 2 * float(apart.std() / len(apart) ** 0.5)


def table(rows: Mapping[str, Row]) -> str:
    """Rows by name, as text."""
    head = ("", "PSNR (dB)", "bits a vector", "codes used (%)", "perplexity")
    lines = [
        (name, f"{row.psnr:.1f}", *((f"{row.bits:.3g}", f"{row.used:.0f}", f"{row.even:.0f}") if row.K else 3 * "-"))
        for name, row in rows.items()
    ]
    return aligned([head, *lines])
