"""The controls of chapter 7: what every projector must beat. Mean, pixel shuffle, learnt queries; all patches."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from minitok.project import LLaVA
from minitok.project._common import regions
from minitok.project.tokenflex import shrunk


class Pooling(nn.Module):
    """The mean of each square of patches, then LLaVA's two layers."""

    def __init__(self, k: int, c: int = 192, d: int = 192) -> None:
        super().__init__()
        self.k, self.mlp = k, LLaVA(c, d)

    def forward(self, x: Float[Tensor, "b n c"], k: int | None = None) -> Float[Tensor, "b k d"]:
        return self.mlp(regions(x, k or self.k).mean(2))


class Shuffle(nn.Module):
    """The patches of a square side by side in the channels (pixel shuffle), then LLaVA's two layers."""

    def __init__(self, k: int, c: int = 192, d: int = 192, n: int = 256) -> None:
        super().__init__()
        self.k, self.mlp = k, LLaVA(n // k * c, d)

    def forward(self, x: Float[Tensor, "b n c"], k: int | None = None) -> Float[Tensor, "b k d"]:
        return self.mlp(regions(x, k or self.k).flatten(2))


class Resampler(nn.Module):
    """k learnt queries gather from all patches by one layer of attention, then LLaVA's two layers."""

    def __init__(self, k: int, c: int = 192, d: int = 192, n: int = 256, heads: int = 3) -> None:
        super().__init__()
        self.k, self.heads = k, heads
        self.queries, self.place = nn.Parameter(torch.randn(k, c) * 0.02), nn.Parameter(torch.randn(n, c) * 0.02)
        self.norm, self.query, self.key = nn.LayerNorm(c), nn.Linear(c, c), nn.Linear(c, c)
        self.value, self.mlp = nn.Linear(c, c), LLaVA(c, d)

    def forward(self, x: Float[Tensor, "b n c"], k: int | None = None) -> Float[Tensor, "b k d"]:
        x = self.norm(x)
        q = self.query(self.queries).expand(len(x), -1, -1)
        q, key, value = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for part in (q, self.key(x + self.place), self.value(x))
        )
        return self.mlp(F.scaled_dot_product_attention(q, key, value).transpose(1, 2).flatten(2))


class Ungated(nn.Module):
    """TokenFLEX's squares with LLaVA's two layers in place of its gated one, as wide as makes the weights equal."""

    def __init__(self, c: int = 192, d: int = 192, hidden: int = 864) -> None:
        super().__init__()
        self.norm, self.inner, self.outer = nn.LayerNorm(c), nn.Linear(c, hidden), nn.Linear(hidden, d)

    def forward(self, x: Float[Tensor, "b n c"], k: int) -> Float[Tensor, "b k d"]:
        return self.outer(F.gelu(self.inner(self.norm(shrunk(x, k)))))
