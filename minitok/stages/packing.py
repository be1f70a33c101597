"""What TokenPacker is measured against beside the controls of chapter 7: itself without regions, a wide shuffle."""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from minitok.project.tokenpacker import TokenPacker, regions, stride


class Everywhere(TokenPacker):
    """The same weights, but each query gathers from the patches of the whole picture."""

    def gather(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        parts = self.to_query(query), self.to_key(key), self.to_value(value)
        q, key, value = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in parts)
        return F.scaled_dot_product_attention(q, key, value).transpose(1, 2).flatten(2)


class Wide(nn.Module):
    """A pixel shuffle with `hidden` channels between its two layers, for as many weights as another method has."""

    def __init__(self, k: int, hidden: int, c: int = 192, d: int = 192, n: int = 256) -> None:
        super().__init__()
        self.k = k
        self.layers = nn.Sequential(nn.Linear(n // k * c, hidden), nn.GELU(), nn.Linear(hidden, d))

    def forward(self, x: Float[Tensor, "b n c"], k: int | None = None) -> Float[Tensor, "b k d"]:
        return self.layers(regions(x, stride(x.shape[1], k or self.k)).flatten(2))
