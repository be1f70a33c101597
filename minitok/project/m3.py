"""M3: Matryoshka Multimodal Models (2024), arXiv 2405.17430.

LLaVA's projector, then the mean of each square of its tokens: k of n tokens are sqrt(k) x sqrt(k) squares in raster
order, k being any number whose squares share out the grid. So coarse tokens are means of finer ones, and nothing is
learnt that LLaVA has not. A training step runs the language model once for each scale on the same rows, and takes the
mean of the losses: L = 1/|S| sum_s CE_s. Afterwards one chooses k for each question. `oracle` says what the best
choice would be worth: for each question the fewest tokens that answer it rightly.

Differs from the paper: all scales of a 16 x 16 grid (256, 64, 16, 4, 1) where it takes five of a 24 x 24 grid (576,
144, 36, 9, 1); it trains the language model too, we the projector alone. What a question costs the oracle that no
scale answers is our choice: the fewest tokens.
Notebook: notebooks/07_project/03_m3.ipynb.
"""

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from minitok.project import llava


def scales(n: int) -> tuple[int, ...]:
    """The numbers of squares that share out a square grid of n tokens, most first.

    >>> scales(576)
    (576, 144, 64, 36, 16, 9, 4, 1)
    """
    side = math.isqrt(n)
    return tuple((side // span) ** 2 for span in range(1, side + 1) if side % span == 0)


def pooled(x: Float[Tensor, "b n c"], k: int) -> Float[Tensor, "b {k} c"]:
    """The means of k squares of tokens, in raster order.

    >>> pooled(torch.arange(16.0).view(1, 16, 1), 4).flatten().tolist()
    [2.5, 4.5, 10.5, 12.5]

    Raises `ValueError` for a k that is not among the `scales` of n, and for tokens that form no square.
    """
    n, side = x.shape[1], math.isqrt(x.shape[1])
    if side**2 != n or k not in scales(n):
        raise ValueError(f"k={k} of {n} tokens came, expected one of {scales(n)} of {side**2}")
    span = side // math.isqrt(k)
    return F.avg_pool2d(x.mT.unflatten(2, (side, side)), span).flatten(2).mT


class M3(nn.Module):
    """LLaVA's projector for all tokens, then the means of squares."""

    def __init__(self, c: int = 192, d: int = 192, n: int = 256) -> None:
        super().__init__()
        self.budgets, self.mlp = scales(n), llava.LLaVA(c, d)

    def forward(self, x: Float[Tensor, "b n c"], k: int | None = None) -> Float[Tensor, "b k d"]:
        """All tokens by default. Raises `ValueError` as `pooled` does."""
        return pooled(self.mlp(x), x.shape[1] if k is None else k)


def matryoshka_loss(loss: Callable[[int], Tensor], budgets: Sequence[int]) -> Float[Tensor, ""]:
    """The loss of a training step: `loss(k)` for each scale on the same rows, each counting the same.

    >>> matryoshka_loss(lambda k: torch.tensor(1.0 / k), (4, 1)).item()
    0.625
    """
    return torch.stack([loss(k) for k in budgets]).mean()


def oracle(right: Bool[Tensor, "s r"], budgets: Sequence[int]) -> tuple[Bool[Tensor, "r"], Int[Tensor, "r"]]:
    """Whether any of s scales answers each of r questions rightly, and the fewest tokens with which one does.

    >>> right = torch.tensor([[True, True, False], [False, True, False]])  # with 4 tokens, with 1
    >>> [found.tolist() for found in oracle(right, (4, 1))]
    [[True, True, False], [4, 1, 1]]

    A question that none answers is given the fewest tokens.
    """
    cost = torch.tensor(budgets, device=right.device)[:, None].expand_as(right)
    answered = right.any(0)
    return answered, torch.where(right | ~answered, cost, cost.max()).amin(0)
