"""The controls that every reduction meets: lots, squares, the middle of the picture, what CLS attends to."""

import math
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from minitok.reduce import Reduction, highest, random_drop
from minitok.reduce._pictures import shared, within
from minitok.vit import ViT

SIDE = 16
LOTS = [partial(random_drop, seed=seed) for seed in range(5)]


def pooling(x: Float[Tensor, "b n c"], k: int, *, pictures: int = 1) -> Reduction:
    """The mean of each square of each picture's patches, whatever they show; for a square number of squares a picture.

    Where 16 rows do not share out evenly, as for k = 81, some squares are a row or a column larger.
    """
    n, side, root = x.shape[1], math.isqrt(x.shape[1] // pictures), math.isqrt(k // pictures)
    if n != pictures * side**2 or k != pictures * root**2 or not 1 <= root <= side:
        of = f" in each of {pictures} pictures" if pictures > 1 else ""
        raise ValueError(f"k={k} of {n} tokens came, expected a square number of {n // pictures}{of}")
    place = torch.arange(side**2, device=x.device)
    square = place // side * root // side * root + place % side * root // side
    each = square + torch.arange(pictures, device=x.device)[:, None] * root**2
    return Reduction.merge(each.flatten().expand(len(x), -1), k)


def radial(x: Float[Tensor, "b n c"], k: int, *, pictures: int = 1) -> Reduction:
    """The k patches nearest the middle of their picture, whatever they show: photographers put things there."""
    side = math.isqrt(x.shape[1] // pictures)
    place = torch.arange(side**2, device=x.device)
    row, column = place // side - (side - 1) / 2, place % side - (side - 1) / 2
    nearest = highest(-(row**2 + column**2).repeat(pictures)[None], k)
    return Reduction.keep(nearest.expand(len(x), -1), x.shape[1])


def attended(x: Float[Tensor, "b n c"], k: int, *, cls_attention: Float[Tensor, "b h n"]) -> Reduction:
    """The k patches that the CLS token pays most attention to, summed over heads."""
    return Reduction.keep(highest(cls_attention.sum(1), k), x.shape[1])


def evenly(x: Float[Tensor, "b n c"], k: int, *, cls_attention: Float[Tensor, "b h n"], pictures: int) -> Reduction:
    """As many patches of each picture, those that its own CLS token pays most attention to."""
    alike = torch.ones(len(x), pictures, device=x.device)
    chosen = within(cls_attention.sum(1), shared(alike, k, x.shape[1] // pictures), k)
    return Reduction.keep(chosen, x.shape[1])


def signals_of(vit: ViT, n: int) -> dict[str, Tensor]:
    """Made-up signals of one photograph with n tokens, of the shapes that a layer gives: for counting operations."""
    h = vit.body.shape.heads
    return {
        "keys": torch.randn(1, h, n, vit.body.shape.width // h),
        "attention": torch.rand(1, h, n, n).softmax(-1),
        "cls_attention": torch.rand(1, h, n).softmax(-1),
        "size": torch.ones(1, n),
    }
