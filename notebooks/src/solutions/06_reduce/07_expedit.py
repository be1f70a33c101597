"""Solutions to the exercises of notebooks/06_reduce/07_expedit.ipynb."""

import math

import torch
import torch.nn.functional as F

from minitok.reduce import Reduction
from minitok.reduce.expedit import coarse, near
from minitok.stages.reduce_dense import rebuilt


def my_expedit(x, k, *, grid=None, tau=0.01, rounds=5, window=5):
    """Exercise 1: the recipe, in logarithms."""
    n = x.shape[1]
    if not 1 <= k <= n:
        raise ValueError(f"k={k} came, expected a whole number from 1 to the {n} tokens of x")
    grid = grid or (math.isqrt(n), math.isqrt(n))
    cells, wide = coarse(int(k), grid), x.detach().to(torch.promote_types(x.dtype, torch.float32))
    s = F.adaptive_avg_pool2d(wide.mT.unflatten(2, grid), cells).flatten(2).mT
    barred = ~near(grid, cells, window)
    for _ in range(rounds):
        far = s.square().sum(-1)[..., None] + wide.square().sum(-1)[:, None] - 2 * s @ wide.mT
        shares = (-tau * far.clamp(min=0)).masked_fill(barred, -torch.inf).log_softmax(1)
        weights = shares.softmax(2)
        s = weights @ wide
    return Reduction.blend(weights)


def change_rebuilt(made, x, y):
    """Exercise 2: the weights sum to 1, so a change of all centres by 1 is a change of each token by 1."""
    return x + rebuilt(made, x, y - made.apply(x))
