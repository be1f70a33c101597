"""What projectors share: places on a grid of patches, in sines and cosines, and the squares that share out the grid."""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


def grid_positions(side: int, c: int) -> Float[Tensor, "n {c}"]:
    """Sines and cosines of the column (first half of the channels) and of the row, for side x side places.

    >>> grid_positions(2, 4)[2].tolist()  # column 0, row 1: sin 0, cos 0, sin 1, cos 1
    [0.0, 1.0, 0.8414709568023682, 0.5403022766113281]

    In raster order. Each half: the sines of the frequencies 10000^(-4i / c), i from 0, then their cosines. Raises
    `ValueError` for a c that 4 does not divide.
    """
    if c % 4:
        raise ValueError(f"c={c} came, expected a multiple of 4: sine and cosine of column and row")
    frequencies = 10_000.0 ** (-torch.arange(c // 4, dtype=torch.float64) / (c // 4))
    angles = torch.arange(side, dtype=torch.float64)[:, None] * frequencies
    waves = torch.cat([angles.sin(), angles.cos()], -1).float()
    return torch.cat([waves.repeat(side, 1), waves.repeat_interleave(side, 0)], -1)


def stretched(places: Float[Tensor, "k c"], n: int) -> Float[Tensor, "{n} c"]:
    """The rows of a square grid for a square grid of n places, bicubic between the known ones.

    >>> stretched(torch.tensor([[0.0], [800.0], [0.0], [800.0]]), 16)[:4].int().flatten().tolist()
    [-84, 181, 618, 884]

    One place says the same of all n. Raises `ValueError` where one of both grids is no square.
    """
    side, few = math.isqrt(n), math.isqrt(len(places))
    if side**2 != n or few**2 != len(places):
        raise ValueError(f"n={n} came for {len(places)} places, expected two square numbers")
    if side == few:
        return places
    grid = places.float().T.unflatten(1, (few, few))[None]
    return F.interpolate(grid, size=(side, side), mode="bicubic")[0].flatten(1).T.to(places.dtype)


def regions(x: Float[Tensor, "b n c"], k: int) -> Float[Tensor, "b {k} m c"]:
    """The n tokens of a square grid as k squares of m neighbours, squares and what is in them in raster order.

    >>> regions(torch.arange(16.0).view(1, 16, 1), 4)[0, 1].flatten().tolist()
    [2.0, 3.0, 6.0, 7.0]

    Raises `ValueError` where the grid does not fall into k equal squares.
    """
    n, side, few = x.shape[1], math.isqrt(x.shape[1]), math.isqrt(max(k, 0))
    if side**2 != n or k < 1 or few**2 != k or side % few:
        raise ValueError(f"k={k} of {n} tokens came, expected squares that share out a square grid")
    return x.unflatten(1, (few, side // few, few, side // few)).transpose(2, 3).flatten(1, 2).flatten(2, 3)
