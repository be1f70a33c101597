"""Solutions to the exercises of notebooks/06_reduce/13_fopru.ipynb."""

import torch

from minitok.reduce import Reduction
from minitok.reduce.fopru import rows


def my_fopru(x, k, *, attention, strategy="rank", grid=None):
    """Exercise 1: received attention in float32; tokens or rows of the largest, in the order of the picture."""
    b, n, _ = x.shape
    if not 1 <= k <= n:
        raise ValueError(f"k={k} came, expected a whole number from 1 to the {n} tokens of x")
    if strategy not in ("rank", "row"):
        raise ValueError(f"strategy={strategy!r} came, expected 'rank' or 'row'")
    phi = attention.float().mean((1, 2))
    if strategy == "rank":
        kept = phi.argsort(dim=-1, descending=True, stable=True)[:, :k].sort(-1).values
        return Reduction.keep(kept, n)
    if grid is None:
        raise ValueError("grid=None came, expected (rows, columns)")
    height, width = grid
    if height * width != n or k % width:
        raise ValueError(f"k={k} of a grid={grid} came, expected whole rows of a grid of {n} tokens")
    sums = phi.view(b, height, width).sum(-1)
    best = sums.argsort(dim=-1, descending=True, stable=True)[:, : k // width].sort(-1).values
    return Reduction.keep((width * best[..., None] + torch.arange(width, device=x.device)).flatten(1), n)


def columns(scores, k, grid):
    """Exercise 2: the rows of the turned grid, with their numbers turned back."""
    height, width = grid
    turned = rows(scores.unflatten(1, grid).mT.flatten(1), k, (width, height))
    return (turned % height * width + turned // height).sort(-1).values
