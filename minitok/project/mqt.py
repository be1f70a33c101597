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
from jaxtyping import Float
from torch import Tensor, nn

from minitok.checks import whole
from minitok.project._common import grid_positions, stretched


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
        self.register_buffer("place", stretched(grid_positions(math.isqrt(most), c), most), persistent=False)
        self.norm_query, self.norm_key, self.norm_value = (nn.LayerNorm(c, eps=1e-6) for _ in range(3))
        self.attention = nn.MultiheadAttention(c, heads, batch_first=True)
        nn.init.trunc_normal_(self.attention.out_proj.weight, std=0.02)
        self.matrix = nn.Parameter(torch.randn(c, d) * d**-0.5)

    def asks(self, k: int) -> Float[Tensor, "{k} c"]:
        """The first k queries, each at its place."""
        return self.norm_query(self.query[:k] + self.place[:k])

    def keys(self, x: Float[Tensor, "b n c"]) -> Float[Tensor, "b n c"]:
        """The places of the patches, with their features where these are wanted."""
        at = stretched(self.place, x.shape[1])
        return self.norm_key(x + at if self.featured else at.expand_as(x))

    def forward(self, x: Float[Tensor, "b n c"], k: int | None = None) -> Float[Tensor, "b k d"]:
        """Raises `ValueError` for a k outside 1 to `most`, and for patches that form no square."""
        k = whole("k", len(self.query) if k is None else k, 1, len(self.query))
        queries = self.asks(k).expand(len(x), -1, -1)
        gathered, _ = self.attention(queries, self.keys(x), self.norm_value(x), need_weights=False)
        return gathered @ self.matrix
