"""The controls that every reduction meets: lots, squares, the middle of the picture, what CLS attends to."""

import math
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from minitok.reduce import Reduction, highest, random_drop
from minitok.vit import ViT

SIDE = 16
LOTS = [partial(random_drop, seed=seed) for seed in range(5)]


def pooling(x: Float[Tensor, "b n c"], k: int) -> Reduction:
    """The mean of each square of patches, whatever they show; for a square number k of 256 patches.

    Where 16 rows do not share out evenly, as for k = 81, some squares are a row or a column larger.
    """
    root = math.isqrt(k)
    if x.shape[1] != SIDE**2 or root * root != k or not 1 <= root <= SIDE:
        raise ValueError(f"k={k} of {x.shape[1]} tokens came, expected a square number of {SIDE**2}")
    place = torch.arange(SIDE**2, device=x.device)
    square = place // SIDE * root // SIDE * root + place % SIDE * root // SIDE
    return Reduction.merge(square.expand(len(x), -1), k)


def radial(x: Float[Tensor, "b n c"], k: int) -> Reduction:
    """The k patches nearest the middle of the picture, whatever they show: photographers put things there."""
    place = torch.arange(SIDE**2, device=x.device)
    row, column = place // SIDE - (SIDE - 1) / 2, place % SIDE - (SIDE - 1) / 2
    nearest = highest(-(row**2 + column**2)[None], k)
    return Reduction.keep(nearest.expand(len(x), -1), x.shape[1])


def attended(x: Float[Tensor, "b n c"], k: int, *, cls_attention: Float[Tensor, "b h n"]) -> Reduction:
    """The k patches that the CLS token pays most attention to, summed over heads."""
    return Reduction.keep(highest(cls_attention.sum(1), k), x.shape[1])


def signals_of(vit: ViT, n: int) -> dict[str, Tensor]:
    """Made-up signals of one photograph with n tokens, of the shapes that a layer gives: for counting operations."""
    h = vit.body.shape.heads
    return {
        "keys": torch.randn(1, h, n, vit.body.shape.width // h),
        "attention": torch.rand(1, h, n, n).softmax(-1),
        "cls_attention": torch.rand(1, h, n).softmax(-1),
        "size": torch.ones(1, n),
    }
