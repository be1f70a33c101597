"""Work of chapter 6 in which no token can be spared: a line of handwriting, read from the patches that are kept.

Four digits of MNIST, 16 pixels high, run across a photograph of 64 x 64 at a random height, through 4 or 5 rows of
4 x 4 patches. The reader is the house's digit classifier: it gets the ink of the kept patches and knows where each
digit would be; what was pruned is black.
"""

import functools
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from minitok import house
from minitok.data import mnist
from minitok.metrics import accuracy
from minitok.nn import Layer
from minitok.reduce import Reduction
from minitok.vit import ViT

PATCH, DIGIT = 4, 16


@dataclass(frozen=True)
class Lines:
    """Pictures with their ink, the pixel row in which each line begins, and the digits; `read` is the measure."""

    vit: ViT
    reader: nn.Module
    pictures: Float[Tensor, "b 3 64 64"]
    ink: Float[Tensor, "b 1 64 64"]
    top: list[int]
    digits: Int[Tensor, "b 4"]

    @functools.cached_property
    def inked(self) -> Tensor:
        """Which patches hold ink: (b, 256) of bool."""
        return F.avg_pool2d(self.ink, PATCH).flatten(1) > 0.1

    @functools.cached_property
    def attention(self) -> list[Float[Tensor, "b h n n"]]:
        """What each layer's patches pay to one another, without CLS: rows add up to less than 1."""
        found: list[Tensor] = []

        def look(layer: Layer) -> None:
            found.append(layer.attention[:, :, 1:, 1:])

        with torch.no_grad():
            self.vit(self.pictures, look)
        return found

    def clear(self, reduction: Reduction) -> Float[Tensor, "b 1 64 64"]:
        """1 in the pixels of kept patches, 0 elsewhere."""
        kept = torch.zeros(reduction.shape[0], reduction.shape[2]).scatter(1, reduction.order, 1).view(-1, 1, 16, 16)
        return kept.repeat_interleave(PATCH, 2).repeat_interleave(PATCH, 3)

    @torch.no_grad()
    def said(self, reduction: Reduction) -> Float[Tensor, "b 4 10"]:
        """The reader's logits for the four digits of each picture, from what is kept."""
        left = self.ink * self.clear(reduction)
        strips = torch.stack([strip[:, y : y + DIGIT] for strip, y in zip(left, self.top, strict=True)])
        crops = strips.unfold(3, DIGIT, DIGIT).permute(0, 3, 1, 2, 4).flatten(0, 1)
        return self.reader(F.interpolate(crops, (28, 28), mode="bilinear")).unflatten(0, (-1, 4))

    def read(self, reduction: Reduction) -> float:
        """Digits read rightly, in percent."""
        return 100 * accuracy(self.said(reduction).flatten(0, 1), self.digits.flatten())


def lines(vit: ViT, photos: Float[Tensor, "b 3 64 64"], seed: int = 0) -> Lines:
    """A line of digits of MNIST's test part over each photograph; the seed draws digits and heights."""
    hand, generator = mnist.load("test"), torch.Generator().manual_seed(seed)
    which = torch.randint(len(hand.labels), (len(photos), 4), generator=generator)
    top = torch.randint(0, 64 - DIGIT + 1, (len(photos),), generator=generator).tolist()
    small = F.interpolate(hand.images[which].flatten(0, 1), (DIGIT, DIGIT), mode="area").unflatten(0, which.shape)
    rows = torch.cat([small[:, i] for i in range(4)], dim=-1)  # b 1 16 64
    ink = torch.stack([F.pad(row, (0, 0, y, 64 - DIGIT - y)) for row, y in zip(rows, top, strict=True)])
    return Lines(vit, house.load("digits"), photos * (1 - ink) + ink, ink, top, hand.labels[which])
