"""TokenFLEX: Unified VLM Training for Flexible Visual Tokens Inference (2025), arXiv 2504.03154.

A square grid of features is pooled to side x side means, then goes through a gated layer, token by token:
y = W3 (silu(W1 x) * W2 x), x normalised before (LN). Where the wanted side does not share out the grid's, the grid is
first stretched to the next multiple of it (bilinear, corners on corners), so that all squares are equal. Each training
step draws one k = side^2 from three (the paper: 64, 144, 256) for its whole batch; the loss is LLaVA's. Afterwards any
side can be asked for, also one between those that were drawn.

Differs from the paper: we read its abstract and the projector's released code (Ristretto-3B), from which the norm, the
hidden width of three times c and the stretching are; the paper draws the three with unequal chances that we do not
know, we with equal ones, and trains the language model too.
Notebook: notebooks/07_project/04_tokenflex.ipynb.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

BUDGETS = (64, 36, 16)


def shrunk(x: Float[Tensor, "b n c"], k: int) -> Float[Tensor, "b {k} c"]:
    """The means of k equal squares of a square grid, in raster order; the grid is stretched where they do not fit.

    >>> grid = torch.arange(9.0).view(1, 9, 1) * 3  # stretched to 4 x 4: rows 0, 2, 4, 6, then 6, 8, 10, 12, ...
    >>> shrunk(grid, 4).round().int().flatten().tolist()
    [4, 8, 16, 20]

    Raises `ValueError` for a k that is no square number from 1 to n, and for tokens that form no square.
    """
    n, side, few = x.shape[1], math.isqrt(x.shape[1]), math.isqrt(max(k, 0))
    if side**2 != n or few**2 != k or not 1 <= k <= n:
        raise ValueError(f"k={k} of {n} tokens came, expected square numbers, k from 1 to n")
    grid, span = x.mT.unflatten(2, (side, side)), -(-side // few)
    # as it was where span * few is the side
    stretched = F.interpolate(grid, (span * few, span * few), mode="bilinear", align_corners=True)
    return F.avg_pool2d(stretched, span).flatten(2).mT


def draw(generator: torch.Generator | None = None, budgets: Sequence[int] = BUDGETS) -> int:
    """The k of a training step: one of `budgets`, each as likely."""
    return budgets[int(torch.randint(len(budgets), (), generator=generator))]


class TokenFLEX(nn.Module):
    """Means of squares, then a gated layer of width `hidden`: one set of weights for all numbers of tokens."""

    def __init__(self, c: int = 192, d: int = 192, hidden: int = 576, n: int = 256) -> None:
        super().__init__()
        self.budgets = tuple(side**2 for side in range(math.isqrt(n), 0, -1))
        self.norm, self.gate, self.up = nn.LayerNorm(c), nn.Linear(c, hidden), nn.Linear(c, hidden)
        self.out = nn.Linear(hidden, d)

    def forward(self, x: Float[Tensor, "b n c"], k: int | None = None) -> Float[Tensor, "b k d"]:
        """All n by default. Raises `ValueError` as `shrunk` does."""
        x = self.norm(shrunk(x, x.shape[1] if k is None else k))
        return self.out(F.silu(self.gate(x)) * self.up(x))
