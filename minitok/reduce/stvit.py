"""STViT: a few semantic tokens, pooled from the grid and completed by attention, take the place of all patches.

Chang, P. Wang, Lin, F. Wang, D. J. Zhang, Jin, Shou: Making Vision Transformers Efficient from A Token Sparsification
View, 2023, arXiv 2303.08685.

Mechanism: the first blocks read all patches X. Then S0 = the maxima of side x side cells of the grid, and two layers
look back: `S1 = S0 + g Attn(S0; [S0, X])` and `S2 = S1 + G + g Attn(S1 + G; [S1, X])`, each with a feed-forward part
that is added with a scale g of its own. The scales are learnt vectors that begin at 1e-5, G is a learnt centre for each
cell. All later blocks read S alone; the class is read from the mean of S. It is trained from scratch.
To get the grid back (STViT-R): `X = X + g Attn(X; S)`, after which the next group may make semantic tokens anew.
Differs from the paper: for global attention only, not for the windows of a Swin; a block on patches sees them all; the
house's blocks (RMSNorm, gated feed-forward); CLS of the first blocks is looked at as one token more. The released code
adds S0 to S1 only with its option `shortcut`; we always do, as the paper's figure.
Notebook: notebooks/06_reduce/06_stvit.ipynb
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import replace

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from minitok.nn import MLP, Block, RMSNorm, Shape
from minitok.vit import ViT

POOLS: dict[str, Callable[[Tensor, int], Tensor]] = {
    "max": F.adaptive_max_pool2d,  # pyright: ignore[reportAssignmentType]
    "mean": F.adaptive_avg_pool2d,
}


def pooled(x: Float[Tensor, "b n c"], side: int, pool: str = "max") -> Float[Tensor, "b k c"]:
    """The maximum (or mean) of each channel over each of side x side cells of a square grid, row by row.

    >>> pooled(torch.arange(16.0).view(1, 16, 1), side=2).flatten().tolist()
    [5.0, 7.0, 13.0, 15.0]

    Raises `ValueError` for a number of tokens that is no square, for a side that is not 1 to that of the grid, and for
    another pool.
    """
    b, n, c = x.shape
    root = math.isqrt(n)
    if root * root != n or not 1 <= side <= root:
        raise ValueError(f"side={side} of {n} tokens came, expected 1 to the side of a square grid")
    if pool not in POOLS:
        raise ValueError(f"pool={pool!r} came, expected 'max' or 'mean'")
    return POOLS[pool](x.mT.reshape(b, c, root, root), side).flatten(2).mT


class Gather(nn.Module):
    """An attention of some tokens to a context, and a feed-forward part; each is added with a learnt scale."""

    def __init__(self, width: int, heads: int, scale: float = 1e-5) -> None:
        super().__init__()
        self.norm1, self.norm2 = RMSNorm(width), RMSNorm(width)
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.mlp = MLP(width, 8 * width // 3)
        self.scale1, self.scale2 = (nn.Parameter(torch.full((width,), scale)) for _ in range(2))

    def forward(self, s: Float[Tensor, "b k c"], context: Float[Tensor, "b m c"]) -> Float[Tensor, "b k c"]:
        """The tokens s with what they find in the context."""
        seen = self.norm1(context)
        s = s + self.scale1 * self.attention(self.norm1(s), seen, seen, need_weights=False)[0]
        return s + self.scale2 * self.mlp(self.norm2(s))


class SemanticTokens(nn.Module):
    """side x side semantic tokens from all patches: S0, S1, S2 of the card."""

    def __init__(self, width: int, heads: int, side: int = 4, pool: str = "max", scale: float = 1e-5) -> None:
        super().__init__()
        self.side, self.pool = side, pool
        self.first, self.second = Gather(width, heads, scale), Gather(width, heads, scale)
        self.centres = nn.Parameter(torch.randn(side * side, width) * 0.02)

    def start(self, x: Float[Tensor, "b n c"]) -> Float[Tensor, "b k c"]:
        """S0: what the semantic tokens are before they look."""
        return pooled(x, self.side, self.pool)

    def context(self, s: Float[Tensor, "b k c"], x: Float[Tensor, "b n c"], more: Tensor) -> Float[Tensor, "b m c"]:
        """What the semantic tokens look at: themselves, the patches, and what stands beside these."""
        return torch.cat([s, x, more], 1)

    def forward(self, x: Float[Tensor, "b n c"], more: Float[Tensor, "b e c"] | None = None) -> Float[Tensor, "b k c"]:
        """S2 of patches x in raster order; `more` is looked at too, such as a CLS token. Errors as `pooled`."""
        more = x[:, :0] if more is None else more
        s = self.start(x)
        s = self.first(s, self.context(s, x, more))
        return self.second(s + self.centres, self.context(s, x, more))


class STViT(nn.Module):
    """A classifier: `early` blocks on CLS and all patches, two layers that make semantic tokens, the rest on these.

    `shape.layers` counts all of them. `tokens` makes the semantic tokens, by default 16 by `SemanticTokens`.
    """

    def __init__(
        self, shape: Shape, size: int = 64, classes: int = 10, early: int = 2, tokens: SemanticTokens | None = None
    ) -> None:
        super().__init__()
        if not 0 <= early <= shape.layers - 2:
            raise ValueError(f"early={early} came, expected 0 to {shape.layers - 2}, two less than the layers")
        self.vit = ViT(replace(shape, layers=shape.layers - 2), size, classes)
        self.early, self.tokens = early, tokens or SemanticTokens(shape.width, shape.heads)

    def semantic(self, images: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b k c"]:
        """The normed semantic tokens after the last block."""
        blocks, x = self.vit.body.blocks, self.vit.embed(images)
        x = through(blocks[: self.early], x)
        return self.vit.body.norm(through(blocks[self.early :], self.tokens(x[:, 1:], x[:, :1])))

    def forward(self, images: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b classes"]:
        """Class logits from the mean of the semantic tokens."""
        return self.vit.head(self.semantic(images).mean(1))


class Group(nn.Module):
    """STViT-R's unit: a block on all patches, semantic tokens, `depth` blocks on these, and the patches look at them.

    What it returns has all patches again, so that groups stand one after another and a dense head can follow.
    """

    def __init__(self, shape: Shape, depth: int = 2, side: int = 4, scale: float = 1e-5) -> None:
        super().__init__()
        self.block, self.blocks = Block(shape), nn.ModuleList(Block(shape) for _ in range(depth))
        self.tokens = SemanticTokens(shape.width, shape.heads, side, scale=scale)
        self.back = Gather(shape.width, shape.heads, scale)

    def forward(self, x: Float[Tensor, "b n c"]) -> Float[Tensor, "b n c"]:
        """All patches, with what the semantic tokens found."""
        x = through([self.block], x)
        return self.back(x, through(self.blocks, self.tokens(x)))


def through(blocks: Iterable[nn.Module], x: Float[Tensor, "b n c"]) -> Float[Tensor, "b n c"]:
    """Tokens after some blocks, each seeing all of them."""
    places = torch.arange(x.shape[1], dtype=torch.float32, device=x.device)[None]
    for block in blocks:
        x = block(x, places)
    return x
