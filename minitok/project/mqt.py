"""MQT: Matryoshka Query Transformer for Large Vision-Language Models (2024), arXiv 2405.19315.

M learnt queries gather from all patches by one layer of cross-attention, and the first k of them are asked (the
paper's m): q_i = LN(z_i + p_i), with z_i learnt and p_i the i-th place of a square grid in sines and cosines; keys
LN(p) are the places of the patches, values LN(x) their features; what is gathered is multiplied by one matrix. A
training step draws k from 2, 4, ..., M for the whole batch, and the other queries do not exist in it; the loss is
LLaVA's. Queries do not see each other, so the first tokens are the same for every k.

Differs from the paper: the paper speaks of attention to the features, the authors' code has places alone in the keys,
and so have we; `featured` puts the features there too (an author calls both possible: issue 5 of their repository).
They train with k = M first, then with random k; we draw from the first step on.
Notebook: notebooks/07_project/02_mqt.ipynb.
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from minitok.checks import whole


def places(side: int, c: int) -> Float[Tensor, "n {c}"]:
    """The places of a square grid in raster order: sines and cosines of the column, then of the row.

    >>> places(2, 4)[2].tolist()  # column 0, row 1: sin 0, cos 0, sin 1, cos 1
    [0.0, 1.0, 0.8414709568023682, 0.5403022766113281]

    Of c channels each quarter has the frequencies 10000^(-i / (c / 4)), i from 0. Raises `ValueError` for a c that is
    no multiple of 4.
    """
    if c % 4:
        raise ValueError(f"c={c} came, expected a multiple of 4")
    frequencies = 10_000.0 ** (-torch.arange(c // 4, dtype=torch.float64) / (c // 4))
    angles = torch.arange(side, dtype=torch.float64)[:, None] * frequencies
    waves = torch.cat([angles.sin(), angles.cos()], -1).float()
    return torch.cat([waves.repeat(side, 1), waves.repeat_interleave(side, 0)], -1)


def resized(grid: Float[Tensor, "m c"], n: int) -> Float[Tensor, "{n} c"]:
    """A square grid's rows for a square of n, bicubic between them.

    >>> resized(torch.tensor([[0.0], [800.0], [0.0], [800.0]]), 16)[:4].int().flatten().tolist()
    [-84, 181, 618, 884]

    Raises `ValueError` where one of both is no square.
    """
    side, wanted = math.isqrt(len(grid)), math.isqrt(n)
    if side**2 != len(grid) or wanted**2 != n:
        raise ValueError(f"n={n} came for {len(grid)} places, expected two square numbers")
    square = grid.T.reshape(1, -1, side, side).float()
    return F.interpolate(square, (wanted, wanted), mode="bicubic").flatten(2)[0].T.to(grid.dtype)


def draw(generator: torch.Generator | None = None, most: int = 256) -> int:
    """The k of a training step: 2, 4, ..., `most`, each as likely."""
    return 2 * int(torch.randint(1, most // 2 + 1, (), generator=generator))


class MQT(nn.Module):
    """The first k of `most` queries, each by itself; `most` is a square number, the paper's M.

    c is the width of the features, of queries and of attention, d that of the language model.
    """

    place: Tensor

    def __init__(self, c: int = 192, d: int = 192, most: int = 256, heads: int = 3, featured: bool = False) -> None:
        super().__init__()
        self.budgets, self.featured = tuple(most >> i for i in range(most.bit_length())), featured
        self.query = nn.Parameter(nn.init.trunc_normal_(torch.empty(most, c), std=0.02))
        self.register_buffer("place", resized(places(math.isqrt(most), c), most), persistent=False)
        self.norm_query, self.norm_key, self.norm_value = (nn.LayerNorm(c, eps=1e-6) for _ in range(3))
        self.attention = nn.MultiheadAttention(c, heads, batch_first=True)
        nn.init.trunc_normal_(self.attention.out_proj.weight, std=0.02)
        self.matrix = nn.Parameter(torch.randn(c, d) * d**-0.5)

    def asks(self, k: int) -> Float[Tensor, "{k} c"]:
        """The first k queries, each at its place."""
        return self.norm_query(self.query[:k] + self.place[:k])

    def keys(self, x: Float[Tensor, "b n c"]) -> Float[Tensor, "b n c"]:
        """The places of the patches, with their features where these are wanted."""
        at = resized(self.place, x.shape[1])
        return self.norm_key(x + at if self.featured else at.expand_as(x))

    def forward(self, x: Float[Tensor, "b n c"], k: int | None = None) -> Float[Tensor, "b k d"]:
        """Raises `ValueError` for a k outside 1 to `most`, and for patches that form no square."""
        k = whole("k", len(self.query) if k is None else k, 1, len(self.query))
        queries = self.asks(k).expand(len(x), -1, -1)
        gathered, _ = self.attention(queries, self.keys(x), self.norm_value(x), need_weights=False)
        return gathered @ self.matrix
