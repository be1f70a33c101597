"""The network parts that every house model is made of: norms, a Transformer block, and one Transformer."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Protocol, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from minitok.attention import Attention, Cache, visible
from minitok.checks import whole
from minitok.norms import LayerNorm, RMSNorm

__all__ = ["MLP", "Attention", "Block", "Cache", "Layer", "LayerNorm", "RMSNorm", "Shape", "Transformer"]


class MLP(nn.Module):
    """The gated feed-forward part: `out(silu(gate(x)) * up(x))`. Source: arXiv 2002.05202 (SwiGLU)."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.gate, self.up = nn.Linear(width, hidden, bias=False), nn.Linear(width, hidden, bias=False)
        self.out = nn.Linear(hidden, width, bias=False)

    def forward(self, x: Float[Tensor, "... c"]) -> Float[Tensor, "... c"]:
        return self.out(F.silu(self.gate(x)) * self.up(x))


@dataclass(frozen=True)
class Shape:
    """The sizes of a Transformer. `condition` is the width of an adaptive-norm condition, 0 for none."""

    width: int
    layers: int
    heads: int
    kv_heads: int | None = None
    hidden: int | None = None
    norm: type[RMSNorm] | type[LayerNorm] = RMSNorm
    pairing: str | None = "half"
    base: float = 10_000.0
    condition: int = 0
    dropout: float = 0.0

    def __post_init__(self) -> None:
        for name, low in (("width", 1), ("layers", 0), ("heads", 1), ("condition", 0)):
            object.__setattr__(self, name, whole(name, getattr(self, name), low))
        if not (0 < self.base < torch.inf and 0 <= self.dropout < 1):
            raise ValueError(f"base={self.base} and dropout={self.dropout} came, expected above 0, and 0 to below 1")


class Reduces(Protocol):
    """What `on_layer` may return: a map from n tokens to k, `y = M x`, and the sizes of the k tokens."""

    def apply(self, x: Tensor) -> Tensor: ...

    def sizes(self, size: Tensor) -> Tensor: ...


@dataclass(eq=False)
class Layer:
    """What `on_layer` sees, between a layer's attention and its feed-forward part.

    Sizes are in float32 or finer: half precision cannot count beyond 256 (bfloat16) or 2,048 tokens.
    """

    index: int
    hidden: Float[Tensor, "b n c"]
    keys: Float[Tensor, "b g n d"]
    size: Float[Tensor, "b n"]
    write_out: Callable[[], Tensor] = field(repr=False)

    @cached_property
    def attention(self) -> Float[Tensor, "b h n n"]:
        """What each token pays to each, written out when it is first asked for: the costly part of looking."""
        return self.write_out()


class Block(nn.Module):
    """Pre-norm attention and feed-forward, each added to its input; a condition may shift, scale and gate both."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        c = shape.width
        self.norm1, self.norm2 = shape.norm(c), shape.norm(c)
        self.attention = Attention(c, shape.heads, shape.kv_heads, shape.pairing, shape.base)
        self.mlp = MLP(c, shape.hidden or 8 * c // 3)
        self.dropout = nn.Dropout(shape.dropout)
        self.modulation = nn.Linear(shape.condition, 6 * c) if shape.condition else None

    def modulate(self, condition: Tensor | None) -> tuple[Tensor, ...] | tuple[float, ...]:
        """Shift, scale and gate of the attention, then of the feed-forward part (adaLN-Zero, arXiv 2212.09748)."""
        if self.modulation is None:
            if condition is not None:
                raise ValueError("condition= came, but this Transformer has no adaptive norm (Shape.condition is 0)")
            return 0.0, 0.0, 1.0, 0.0, 0.0, 1.0
        if condition is None:
            raise ValueError("this Transformer has an adaptive norm: give condition=")
        return self.modulation(F.silu(condition))[:, None].chunk(6, dim=-1)

    def forward(
        self,
        x: Float[Tensor, "b n c"],
        positions: Float[Tensor, "#b n *axes"],
        seen: Tensor | None = None,
        condition: Float[Tensor, "b e"] | None = None,
        past: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] | None = None,
        between: Callable[[Tensor, Tensor], Tensor] | None = None,
    ) -> Float[Tensor, "b k c"]:
        """`between(x, normed)` sees the tokens between the two parts, and may return fewer."""
        shift1, scale1, gate1, shift2, scale2, gate2 = self.modulate(condition)
        normed = self.norm1(x) * (1 + scale1) + shift1
        x = x + gate1 * self.dropout(self.attention(normed, positions, seen, past))
        if between is not None:
            x = between(x, normed)
        return x + gate2 * self.dropout(self.mlp(self.norm2(x) * (1 + scale2) + shift2))


class Transformer(nn.Module):
    """A stack of blocks and a last norm; causal, full or block-causal by the mask of each call."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.blocks = nn.ModuleList(Block(shape) for _ in range(shape.layers))
        self.norm = shape.norm(shape.width)
        for name, weight in self.named_parameters():
            if "modulation" in name:
                nn.init.zeros_(weight)  # adaptive norms begin as the identity with closed gates
            elif weight.dim() == 2:
                nn.init.normal_(weight, std=0.02 / ((2 * shape.layers) ** 0.5 if ".out." in name else 1))

    def forward(
        self,
        x: Float[Tensor, "b n c"],
        mask: str | Tensor = "causal",
        *,
        positions: Float[Tensor, "#b n *axes"] | None = None,
        prefix: Float[Tensor, "b p c"] | None = None,
        condition: Float[Tensor, "b e"] | None = None,
        cache: Cache | None = None,
        on_layer: Callable[[Layer], Reduces | None] | None = None,
        after_layer: Callable[[int, Tensor], Tensor] | None = None,
    ) -> Float[Tensor, "b k c"]:
        """Returns one output a token (the prefix's are dropped; fewer when `on_layer` reduces).

        `mask` as in `attention.visible`. A `prefix` comes first and, under a causal mask, conditions all that follows;
        a `condition` enters by adaptive norms. With a `cache` only the new tokens are given; it is extended in place.
        `positions` count from 0 by default; (b, n, axes) gives each token a place in a grid (`attention.rotary`).
        `on_layer(Layer)` is called between the attention and the feed-forward part of each layer; from then on a
        merged token weighs in the attention by its size (a bias of log size, arXiv 2210.09461 section 3.1).
        `after_layer(i, x)` is called after each whole layer, 0 the first; what it returns is read by the next.
        """
        if prefix is not None:
            x = torch.cat([prefix, x], dim=1)
        past = len(cache) if cache is not None else 0
        if positions is None:
            positions = torch.arange(past, past + x.shape[1], device=x.device, dtype=torch.float32)[None]
        if on_layer is not None:
            if cache is not None or prefix is not None or isinstance(mask, Tensor) or after_layer is not None:
                more = "no cache, no prefix (join it to x), no after_layer, a named mask"
                raise ValueError(f"on_layer changes the tokens: it takes {more}")
            return self.norm(self.reduced(x, mask, positions, condition, on_layer))
        seen = visible(mask, x.shape[1], past + x.shape[1], x.device)
        for i, block in enumerate(self.blocks):
            x = block(x, positions, seen, condition, partial(cache.extend, i) if cache is not None else None)
            if after_layer is not None:
                x = after_layer(i, x)
        return self.norm(x if prefix is None else x[:, prefix.shape[1] :])

    def reduced(self, x: Tensor, mask: str, positions: Tensor, condition: Tensor | None, on_layer: Callable) -> Tensor:
        """The layers with `on_layer` called in each."""
        size = torch.ones(x.shape[:2], dtype=torch.promote_types(x.dtype, torch.float32), device=x.device)
        positions, merged = positions.expand(x.shape[0], *positions.shape[1:]), False
        for i, block in enumerate(cast("list[Block]", self.blocks)):
            at, held = positions, {}
            seen = visible(mask, x.shape[1], x.shape[1], x.device)
            if merged:  # until then all sizes are 1, whose logarithms are 0
                bias = size.log().to(x.dtype)[:, None, None, :]
                seen = bias if seen is None else bias.masked_fill(~seen, -torch.inf)

            def hold(keys: Tensor, values: Tensor, held=held) -> tuple[Tensor, Tensor]:
                held["keys"] = keys
                return keys, values

            def between(x: Tensor, normed: Tensor, i=i, block=block, seen=seen, at=at, held=held) -> Tensor:
                nonlocal size, positions, merged
                look = partial(block.attention.weights, normed, at, held["keys"], seen)
                reduction = on_layer(Layer(i, x, held["keys"], size, look))
                if reduction is None:
                    return x
                axes = at if at.dim() == 3 else at[..., None]
                positions = reduction.apply(axes).reshape(len(x), -1, *at.shape[2:])
                size, merged = reduction.sizes(size), True
                return reduction.apply(x)

            x = block(x, at, seen, condition, hold, between)
        return x
