"""Solutions to the exercises of notebooks/07_project/04_tokenflex.ipynb."""

import math

import torch.nn.functional as F

from minitok import stages


def my_shrunk(x, k):
    """Exercise 1: stretch to the next multiple, then equal squares."""
    n = x.shape[1]
    side, few = math.isqrt(n), math.isqrt(max(k, 0))
    if side**2 != n or few**2 != k or not 1 <= k <= n:
        raise ValueError(f"k={k} of {n} tokens came, expected square numbers, k from 1 to n")
    full = math.ceil(side / few) * few
    grid = F.interpolate(x.mT.unflatten(2, (side, side)), (full, full), mode="bilinear", align_corners=True)
    return grid.unflatten(2, (few, -1)).unflatten(4, (few, -1)).mean((3, 5)).flatten(2).mT


def most(limit):
    """Exercise 2: from the largest side down, the first that fits; nine matrices of 192 x 192 in the projector."""
    stage = stages.project.stage(scenes=1)
    for side in range(16, 0, -1):
        k = side**2
        if stage.cost(k) + 2 * 9 * 192**2 * k <= limit:
            return k
    raise ValueError(f"limit={limit} is too low for one token")
