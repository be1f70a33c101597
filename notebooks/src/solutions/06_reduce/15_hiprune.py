"""Solutions to the exercises of notebooks/06_reduce/15_hiprune.ipynb."""

import math

import torch
import torch.nn.functional as F

from minitok.reduce import Reduction


def my_hiprune(x, k, *, middle, deep, grid=None, alpha=0.1):
    """Exercise 1: the recipe, row by row."""
    n = x.shape[1]
    if not 1 <= k <= n:
        raise ValueError(f"k={k} came, expected a whole number from 1 to the {n} tokens of x")
    height, width = grid or (math.isqrt(n), math.isqrt(n))
    rows, count = [], min(round(alpha * int(k) / 5), int(k) // 5)
    for first, last in zip(middle.float().mean((1, 2)), deep.float().mean((1, 2)), strict=True):
        kept = set()
        for j in first.argsort(descending=True, stable=True)[:count].tolist():
            y, z = divmod(j, width)
            near = [(y, z), (y - 1, z), (y + 1, z), (y, z - 1), (y, z + 1)]
            kept |= {r * width + c for r, c in near if 0 <= r < height and 0 <= c < width}
        rest = [j for j in last.argsort(descending=True, stable=True).tolist() if j not in kept]
        rows.append(sorted([*kept, *rest[: k - len(kept)]]))
    return Reduction.keep(torch.tensor(rows), n)


def around(chosen, grid):
    """Exercise 2: a maximum over squares of three by three."""
    there = chosen.unflatten(1, grid)[:, None].float()
    return F.max_pool2d(there, 3, stride=1, padding=1).flatten(1) > 0
