"""TokenPacker: Efficient Visual Projector for Multimodal LLM (2024), arXiv 2407.02392.

A coarse picture asks, the fine one answers. Query q_i: the last features x, down-sampled bilinearly by s to a grid of
n / s^2, through a matrix without shift and a norm. Keys and values: the features of several layers side by side in
the channels, each through two layers with a GELU between them and a norm. Region to point: token i attends only to
the s x s keys of its own square, out_i = sum_{j in region i} softmax_j(q_i k_j / sqrt(d)) v_j, by heads; q_i is not
added. Two layers lead to the language model's width. 256 patches become 64 tokens for s = 2, 16 for s = 4.

Differs from the paper: layers 3 to 6 of our 6 (the paper: 12, 16, 22, 23 of CLIP's 24); x are the ViT's last features,
normed, where the paper has the last layer but one; inside 128 channels and 4 heads for features of 192 (1,024 and 8
for 1,024); torch's own first weights, which at 1,024 channels are about as wide as the paper's 0.02; no slicing of
large pictures.
Notebook: notebooks/07_project/05_tokenpacker.ipynb.
"""

import math
from collections.abc import Sequence

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from minitok.project import _common, llava


def stride(n: int, k: int) -> int:
    """The s for which a square grid of n tokens falls into k squares of s x s.

    >>> stride(256, 64), stride(256, 16)
    (2, 4)

    Raises `ValueError` where there is none.
    """
    side, few = math.isqrt(n), math.isqrt(max(k, 0))
    if side**2 != n or k < 1 or few**2 != k or side % few:
        raise ValueError(f"k={k} of {n} tokens came, expected k squares that share out a square grid")
    return side // few


def coarse(x: Float[Tensor, "b n c"], s: int) -> Float[Tensor, "b k c"]:
    """The grid down-sampled by s, bilinearly: what stands in the middle of each square, its four middle patches' mean.

    >>> import torch
    >>> coarse(torch.tensor([0.0, 4, 8, 0, 0, 0, 0, 0, 0]).view(1, 9, 1), 3).item()
    0.0
    >>> coarse(torch.arange(16.0).view(1, 16, 1), 2).flatten().tolist()
    [2.5, 4.5, 10.5, 12.5]

    For an odd s it is the one patch in the middle. Computed in float32, returned in x's own type.
    """
    side = math.isqrt(x.shape[1])
    grid = x.float().transpose(1, 2).unflatten(2, (side, side))
    small = F.interpolate(grid, size=(side // s, side // s), mode="bilinear")
    return small.flatten(2).transpose(1, 2).to(x.dtype)


def regions(x: Float[Tensor, "b n c"], s: int) -> Float[Tensor, "b k m c"]:
    """The patches of each s x s square, squares and patches in raster order.

    >>> import torch
    >>> regions(torch.arange(16.0).view(1, 16, 1), 2)[0, 1].flatten().tolist()
    [2.0, 3.0, 6.0, 7.0]
    """
    return _common.regions(x, x.shape[1] // s**2)


def inject(
    query: Float[Tensor, "b k c"], key: Float[Tensor, "b n c"], value: Float[Tensor, "b n c"], heads: int = 1
) -> Float[Tensor, "b k c"]:
    """Region to point: each of k queries gathers from the n / k patches of its own square, and from no others.

    >>> import torch
    >>> key = torch.tensor([0.0, 0, 2, 0]).log1p().view(1, 4, 1)  # shares 1, 1, 3 and 1 of 6
    >>> inject(torch.ones(1, 1, 1), key, torch.tensor([12.0, 18, 24, 30]).view(1, 4, 1)).item()
    22.0

    Raises `ValueError` as `stride` does.
    """
    s = stride(key.shape[1], query.shape[1])
    parts = query[:, :, None], regions(key, s), regions(value, s)
    q, key, value = (part.unflatten(-1, (heads, -1)).transpose(2, 3) for part in parts)  # b k h m d
    return F.scaled_dot_product_attention(q, key, value).flatten(2)  # one query a square: b k h 1 d


class TokenPacker(nn.Module):
    """Packs each square of patches into one token; its weights do not depend on the size of the squares.

    `layers` are the numbers of the `levels` that keys and values see, counted from 0; `width` is the paper's embed_dim,
    `c` its kv_dim, `d` its hidden_size, and s follows from k.
    """

    def __init__(
        self,
        c: int = 192,
        d: int = 192,
        *,
        layers: Sequence[int] = (2, 3, 4, 5),
        width: int = 128,
        heads: int = 4,
        budgets: tuple[int, ...] = (64, 16),
    ) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"heads={heads} do not share out width={width}")
        self.layers, self.heads, self.budgets = tuple(layers), heads, budgets
        many = len(self.layers) * c
        self.query = nn.Sequential(nn.Linear(c, width, bias=False), nn.LayerNorm(width, 1e-6))
        self.key = nn.Sequential(llava.LLaVA(many, width), nn.LayerNorm(width, 1e-6))
        self.value = nn.Sequential(llava.LLaVA(many, width), nn.LayerNorm(width, 1e-6))
        self.to_query, self.to_key, self.to_value = (nn.Linear(width, width) for _ in range(3))
        self.out, self.mlp = nn.Linear(width, width), llava.LLaVA(width, d)

    def gather(
        self, query: Float[Tensor, "b k c"], key: Float[Tensor, "b n c"], value: Float[Tensor, "b n c"]
    ) -> Float[Tensor, "b k c"]:
        """What each query finds, by the matrices of an attention layer and by its heads."""
        return inject(self.to_query(query), self.to_key(key), self.to_value(value), self.heads)

    def forward(
        self, x: Float[Tensor, "b n c"], k: int | None = None, *, levels: Float[Tensor, "b l n c"]
    ) -> Float[Tensor, "b k d"]:
        """k tokens in raster order; `levels` are the features after each of the encoder's layers.

        Raises `ValueError` for a k that is not among the budgets, and for fewer levels than `layers` asks for.
        """
        k = max(self.budgets) if k is None else k
        if k not in self.budgets:
            raise ValueError(f"k={k} came, expected one of {self.budgets}")
        if max(self.layers) >= levels.shape[1]:
            raise ValueError(f"levels of {levels.shape[1]} layers came, layers={self.layers} asks for more")
        many = levels[:, list(self.layers)].transpose(1, 2).flatten(2)
        query = self.query(coarse(x, stride(x.shape[1], k)))
        return self.mlp(self.out(self.gather(query, self.key(many), self.value(many))))
