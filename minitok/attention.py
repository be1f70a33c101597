"""Attention and what it needs: rotary positions, masks, and a cache of past keys and values."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

PAIRINGS = ("half", "interleaved")


def rotary(
    x: Float[Tensor, "b h n d"],
    positions: Float[Tensor, "#b n"] | Float[Tensor, "#b n axes"],
    pairing: str = "half",
    base: float = 10_000.0,
) -> Float[Tensor, "b h n d"]:
    """Turns each pair of channels by an angle that grows with the position.

    `half` pairs channel i with i + d/2 (GPT-NeoX, Llama in Hugging Face's files), `interleaved` pairs 2i with 2i + 1
    (the paper, Llama in Meta's and GGUF files). Pair i turns by `position / base ** (2i / d)` radians, so a query and
    a key meet with a phase that depends on their distance alone. Positions may be fractions (merged tokens have them).
    Positions with several axes, such as row and column, (b, n, axes), share the channels out: the first d / axes turn
    by the first axis, and so on. Source: arXiv 2104.09864, equation 34.
    Raises `ValueError` for an odd d (of an axis) or an unknown pairing.
    """
    if pairing not in PAIRINGS:
        raise ValueError(f"pairing={pairing!r} is not one of {PAIRINGS}")
    if positions.dim() == 3:
        axes = positions.shape[-1]
        if x.shape[-1] % axes:
            raise ValueError(f"d={x.shape[-1]} channels do not share out among {axes} axes of positions")
        parts = zip(x.chunk(axes, dim=-1), positions.unbind(-1), strict=True)
        return torch.cat([rotary(part, at, pairing, base) for part, at in parts], dim=-1)
    d = x.shape[-1]
    if d % 2:
        raise ValueError(f"rotary positions pair the channels of a head: d={d} is odd")
    frequency = base ** (-torch.arange(0, d, 2, device=x.device, dtype=torch.float32) / d)
    angle = positions[:, None, :, None] * frequency  # b 1 n d/2
    cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
    if pairing == "half":
        first, second = x.chunk(2, dim=-1)
        return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)
    first, second = x[..., 0::2], x[..., 1::2]
    return torch.stack([first * cos - second * sin, second * cos + first * sin], dim=-1).flatten(-2)


def visible(mask: str | Tensor, n: int, m: int, device: torch.device) -> Bool[Tensor, "..."] | None:
    """Which of m keys each of the last n positions may see, as booleans (n, m); `None` when it is all of them.

    >>> visible("causal", 2, 3, torch.device("cpu")).int().tolist()
    [[1, 1, 0], [1, 1, 1]]
    >>> visible(torch.tensor([0, 0, 1]), 3, 3, torch.device("cpu")).int().tolist()
    [[1, 1, 0], [1, 1, 0], [1, 1, 1]]

    `mask` is `"full"`, `"causal"`, the block number of each of the m positions (block-causal: a position sees its own
    block and those with lower numbers), or the booleans themselves (n, m) or (b, 1, n, m).
    """
    if isinstance(mask, Tensor):
        if mask.dtype == torch.bool:
            if mask.shape[-2:] != (n, m):
                raise ValueError(f"a boolean mask of shape {tuple(mask.shape)} came for {n} queries and {m} keys")
            return mask
        if mask.shape != (m,):
            raise ValueError(f"block numbers of shape {tuple(mask.shape)} came for {m} positions")
        return mask[m - n :, None] >= mask[None, :]
    if mask not in ("full", "causal"):
        raise ValueError(f"mask={mask!r} is not 'full', 'causal', block numbers or booleans")
    if mask == "full" or n == 1:
        return None
    return torch.ones(n, m, dtype=torch.bool, device=device).tril(m - n)


class Cache:
    """The keys and values that each layer has seen, so that a later call only computes the new positions."""

    def __init__(self) -> None:
        self.layers: dict[int, tuple[Tensor, Tensor]] = {}

    def __len__(self) -> int:
        """The number of positions held."""
        return self.layers[0][0].shape[2] if self.layers else 0

    def extend(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Appends new keys and values (b, h, n, d) of one layer and returns all that it now holds."""
        if layer in self.layers:
            past_keys, past_values = self.layers[layer]
            keys, values = torch.cat([past_keys, keys], dim=2), torch.cat([past_values, values], dim=2)
        self.layers[layer] = keys, values
        return keys, values

    def keep(self, positions: slice | Tensor) -> None:
        """Forgets all positions but these: `keep(slice(length))` after a rejected draft, an index after pruning."""
        self.layers = {i: (k[:, :, positions], v[:, :, positions]) for i, (k, v) in self.layers.items()}


class Attention(nn.Module):
    """Softmax attention with grouped queries: `heads` queries share `kv_heads` keys and values."""

    def __init__(
        self,
        width: int,
        heads: int,
        kv_heads: int | None = None,
        pairing: str | None = "half",
        base: float = 1e4,
    ) -> None:
        super().__init__()
        kv_heads = heads if kv_heads is None else kv_heads
        if min(heads, kv_heads) < 1 or width % heads or heads % kv_heads:
            raise ValueError(f"width={width}, heads={heads} and kv_heads={kv_heads} do not divide one another")
        self.heads, self.kv_heads, self.d = heads, kv_heads, width // heads
        self.pairing, self.base = pairing, base
        self.query = nn.Linear(width, width, bias=False)
        self.key = nn.Linear(width, kv_heads * self.d, bias=False)
        self.value = nn.Linear(width, kv_heads * self.d, bias=False)
        self.out = nn.Linear(width, width, bias=False)

    def split(self, x: Float[Tensor, "b n hd"], positions: Tensor | None) -> Float[Tensor, "b h n d"]:
        """Cuts channels into heads, and turns them by their positions where these are given and the model uses them."""
        x = x.unflatten(-1, (-1, self.d)).transpose(1, 2)
        return x if positions is None or self.pairing is None else rotary(x, positions, self.pairing, self.base)

    def forward(
        self,
        x: Float[Tensor, "b n c"],
        positions: Float[Tensor, "#b n *axes"],
        seen: Bool[Tensor, "..."] | Float[Tensor, "..."] | None = None,
        past: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] | None = None,
    ) -> Float[Tensor, "b n c"]:
        """Each token gathers the values of those that `seen` lets it see (booleans, or a bias on the logits).

        `past(keys, values)` adds what a cache holds. Grouping and masks are those of torch's SDPA.
        """
        q, k = self.split(self.query(x), positions), self.split(self.key(x), positions)
        v = self.split(self.value(x), None)
        if past is not None:
            k, v = past(k, v)
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=seen, enable_gqa=self.heads != self.kv_heads)
        return self.out(mixed.transpose(1, 2).flatten(2))

    def weights(
        self,
        x: Float[Tensor, "b n c"],
        positions: Float[Tensor, "#b n *axes"],
        keys: Float[Tensor, "b g n d"],
        seen: Bool[Tensor, "..."] | Float[Tensor, "..."] | None = None,
    ) -> Float[Tensor, "b h n n"]:
        """The attention weights, which the fused kernel of `forward` never writes out; their softmax is in float32."""
        q = self.split(self.query(x), positions) / self.d**0.5
        logits = (q @ keys.repeat_interleave(self.heads // self.kv_heads, dim=1).transpose(2, 3)).float()
        if seen is not None:
            logits = logits.masked_fill(~seen, -torch.inf) if seen.dtype == torch.bool else logits + seen
        return logits.softmax(-1).to(q.dtype)

    def map(
        self,
        x: Float[Tensor, "b n c"],
        positions: Float[Tensor, "#b n *axes"],
        seen: Bool[Tensor, "..."] | Float[Tensor, "..."] | None = None,
    ) -> tuple[Float[Tensor, "b h n n"], Float[Tensor, "b g n d"]]:
        """The attention weights and the keys."""
        keys = self.split(self.key(x), positions)
        return self.weights(x, positions, keys, seen), keys
