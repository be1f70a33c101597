"""TokenBridge: a finished autoencoder's latents as codes, channel by channel, and a head that predicts them in turn.

Wang, Lin, Teng, Zhu, Ren, Feng, Liu: Bridging Continuous and Discrete Tokens for Autoregressive Visual Generation,
2025, arXiv 2503.16430.

Mechanism: nothing is retrained. [low, high] of a channel is mapped to [-3, 3]. B bins of equal mass under N(0, 1) have
the boundaries `b_i = Phi^-1(i / B)`, clamped to +-3, and stand for their means, `(phi(b_i) - phi(b_i+1)) / (Phi(b_i+1)
- Phi(b_i))`. A channel's code is its nearest such value; decoding maps the value back. A vector thus has B^d codes, too
many to classify at once: a causal Transformer over the d channels of one position, conditioned on a vector z of the
position, gives `p(k | z) = prod_i p(k_i | z, k_1..k_i-1)`, B logits a channel, lowest frequencies first.
Differs from the paper: low and high may be set per channel from data (the release divides latents by one spread
and takes +-5). Gradients pass straight through, so that the layer also serves in training. How the release found its
fixed order of channels is not in it: `frequency_order` is ours. Its head is larger (4 layers as wide as the backbone).
Notebook: notebooks/01_quantize/08_tokenbridge.ipynb
"""

import math
from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from minitok.checks import check_finite
from minitok.nn import Cache, Shape, Transformer
from minitok.quantize._common import Quantized, WithoutWeights, check_codes, check_vectors, straight_through, wide

REACH = 3.0


def normal_bins(levels: int) -> tuple[Float[Tensor, "_"], Float[Tensor, "B"]]:
    """The boundaries of bins of equal mass under N(0, 1), cut off at +-3, and the mean of N(0, 1) within each.

    >>> normal_bins(4)
    (tensor([-3.0000, -0.6745,  0.0000,  0.6745,  3.0000]), tensor([-1.2602, -0.3247,  0.3247,  1.2602]))

    Source: `_init_gaussian_quantization` of the release. Raises `ValueError` for fewer than 2 levels or more than 740,
    whose outermost bins would lie beyond 3.
    """
    if not 2 <= levels <= 740:
        raise ValueError(f"levels={levels} came, expected 2 to 740")
    edges = torch.special.ndtri(torch.linspace(0, 1, levels + 1, dtype=torch.float64)).clamp(-REACH, REACH)
    density, mass = (-edges.square() / 2).exp() / math.sqrt(2 * math.pi), torch.special.ndtr(edges)
    return edges.float(), ((density[:-1] - density[1:]) / (mass[1:] - mass[:-1])).float()


def frequency_order(z: Float[Tensor, "b n d"]) -> list[int]:
    """The channels of square maps by the mean frequency of their power, lowest first; of equal ones the lower index.

    >>> frequency_order(torch.tensor([[[1.0, 1.0], [-1.0, 1.0], [-1.0, 0.0], [1.0, 0.0]]]))
    [1, 0]

    A frequency counts as its distance from 0 in cycles a cell; the mean of a map is taken off and does not count. A
    channel without more comes first. Raises `ValueError` unless n is a square, and for NaN and infinity.
    """
    b, n, d = z.shape
    side = math.isqrt(n)
    if side * side != n or not b * n * d:
        raise ValueError(f"z of shape {tuple(z.shape)} came, expected maps of n = side x side positions")
    check_finite("z", z)
    vectors = wide(z) - wide(z).mean(1, keepdim=True)
    power = torch.fft.fft2(vectors.transpose(1, 2).unflatten(2, (side, side))).abs().square().mean(0)  # d side side
    step = torch.fft.fftfreq(side, device=z.device)
    distance = (step[:, None].square() + step.square()).sqrt()
    mean = (power * distance).sum((1, 2)) / power.sum((1, 2)).clamp(min=torch.finfo(power.dtype).tiny)
    return mean.argsort(stable=True).tolist()


class TokenBridge(WithoutWeights):
    """d channels of `levels` values each within [low, high]; one code a channel.

    The range, which the state dict holds, and the bins stay in float32 when the module is cast, and so do the codes:
    bfloat16 would move the bounds of the bins. Values are of the dtype that it was cast to.
    """

    low: Tensor
    high: Tensor
    values: Tensor

    def __init__(self, d: int = 16, levels: int = 64, low: float | int = -5.0, high: float | int = 5.0) -> None:
        super().__init__()
        if d < 1:
            raise ValueError(f"d={d} came, expected at least 1")
        if not (math.isfinite(low) and math.isfinite(high) and low < high):
            raise ValueError(f"low={low} and high={high} came, expected two finite numbers, the lower one first")
        self.d, self.levels = d, levels
        self.register_buffer("low", torch.full((d,), float(low)))
        self.register_buffer("high", torch.full((d,), float(high)))
        self.register_buffer("values", normal_bins(levels)[1], persistent=False)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "TokenBridge":
        """What `module.to`, `.bfloat16()`, ... go through: devices are followed, other dtypes not."""
        exact = {name: getattr(self, name) for name in ("low", "high", "values")}
        super()._apply(fn, recurse)
        for name, before in exact.items():
            if (after := getattr(self, name)).dtype != before.dtype:
                setattr(self, name, before.to(after.device))
        return self

    @property
    def bits(self) -> float:
        """Bits a token: log2 of the levels for each channel."""
        return self.d * math.log2(self.levels)

    @torch.no_grad()
    def fit_range(self, z: Float[Tensor, "b n d"], spread: float | int = 5.0) -> None:
        """Sets each channel's range to its mean in z plus and minus `spread` standard deviations.

        5 is the paper's range for latents of standard deviation 1; with 3 the bins of normal latents have equal mass.
        Raises `ValueError` for a spread that is not above 0 or a channel that does not vary.
        """
        check_vectors(z, self.d)
        if not 0 < spread < math.inf:
            raise ValueError(f"spread={spread} came, expected a finite number above 0")
        vectors = z.flatten(0, 1).float()
        if len(vectors) < 2 or not (vectors.amax(0) > vectors.amin(0)).all():
            raise ValueError("z has a channel that does not vary, expected at least two values of each")
        deviation, mean = torch.std_mean(vectors, 0)
        low, high = mean - spread * deviation, mean + spread * deviation
        if not (low < high).all():
            raise ValueError(f"z has a channel that varies by less than float32 tells apart at {mean.tolist()}")
        self.low.copy_(low)
        self.high.copy_(high)

    def encode(self, z: Float[Tensor, "b n d"]) -> Int[Tensor, "b n d"]:
        """The code of each channel, 0 to levels - 1: its nearest value, of two equally near ones the lower."""
        check_vectors(z, self.d)
        scaled = ((z.float() - self.low) / (self.high - self.low) * 2 - 1) * REACH
        return torch.bucketize(scaled.contiguous(), (self.values[1:] + self.values[:-1]) / 2)

    def decode(self, codes: Int[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
        """The values of each channel's code."""
        check_codes(codes, self.d, self.levels)
        values = (self.values[codes.long()] / REACH + 1) / 2 * (self.high - self.low) + self.low
        return values.to(self.unit.dtype)

    def forward(self, z: Float[Tensor, "b n d"]) -> Quantized:
        """Nearest values with straight-through gradients, codes, and a loss of zero."""
        codes = self.encode(z)
        return Quantized(straight_through(z, self.decode(codes)), codes, wide(z).new_zeros(()))


class ChannelHead(nn.Module):
    """Predicts the d codes of a position one after another, in `order`, given a vector of width `condition`."""

    order: Tensor

    def __init__(
        self, d: int, levels: int, condition: int, order: list[int] | None = None, width: int = 64, layers: int = 2
    ) -> None:
        super().__init__()
        if min(d, levels, condition, layers) < 1 or width < 8 or width % 8:
            given = f"d={d}, levels={levels}, condition={condition}, width={width} and layers={layers}"
            raise ValueError(f"{given} came, expected at least 1 of each and a width that 8 divides")
        if order is not None and sorted(order) != list(range(d)):
            raise ValueError(f"order={order} came, expected each of 0 to {d - 1} once")
        self.d, self.levels, self.condition = d, levels, nn.Linear(condition, width)
        self.register_buffer("order", torch.tensor(range(d) if order is None else order))
        self.embeddings = nn.Parameter(0.02 * torch.randn(d, levels, width))
        self.places = nn.Parameter(0.02 * torch.randn(d, width))
        self.blocks = Transformer(Shape(width, layers, heads=4, condition=width))
        self.weights, self.biases = nn.Parameter(torch.zeros(d, width, levels)), nn.Parameter(torch.zeros(d, levels))

    def said(self, condition: Float[Tensor, "b n e"]) -> Float[Tensor, "bn c"]:
        """What the condition of each position says, in the head's width.

        Raises `ValueError` for a condition of another width, or with NaN or infinity.
        """
        if condition.dim() != 3 or condition.shape[-1] != self.condition.in_features:
            expected = f"(b, n, {self.condition.in_features})"
            raise ValueError(f"condition of shape {tuple(condition.shape)} came, expected {expected}")
        check_finite("condition", condition)
        return self.condition(condition.flatten(0, 1))

    def forward(self, condition: Float[Tensor, "b n e"], codes: Int[Tensor, "b n d"]) -> Float[Tensor, "b n d v"]:
        """Logits of each channel's code given the codes of the channels before it in `order`; others are not seen."""
        check_codes(codes, self.d, self.levels)
        said = self.said(condition)
        if condition.shape[:2] != codes.shape[:2]:
            given = f"{tuple(condition.shape)} and codes of shape {tuple(codes.shape)}"
            raise ValueError(f"condition of shape {given} came, expected equal b and n")
        before = self.order[:-1]
        earlier = self.embeddings[before, codes.flatten(0, 1)[:, before]]  # bn d-1 c
        out = self.blocks(torch.cat([said[:, None], earlier], 1) + self.places, condition=said)
        logits = torch.einsum("bdc,dcv->bdv", out, self.weights) + self.biases
        return logits[:, self.order.argsort()].unflatten(0, condition.shape[:2])

    @torch.no_grad()
    def sample(
        self, condition: Float[Tensor, "b n e"], generator: torch.Generator | None = None
    ) -> Int[Tensor, "b n d"]:
        """Draws the codes of each position, channel after channel in `order`."""
        said, cache = self.said(condition), Cache()
        codes, new = torch.zeros(len(said), self.d, dtype=torch.long, device=said.device), said
        for i, channel in enumerate(self.order.tolist()):
            out = self.blocks((new + self.places[i])[:, None], condition=said, cache=cache)[:, 0]
            p = wide(out @ self.weights[i] + self.biases[i]).softmax(-1)
            codes[:, channel] = torch.multinomial(p, 1, generator=generator)[:, 0]
            new = self.embeddings[channel, codes[:, channel]]
        return codes.unflatten(0, condition.shape[:2])
