"""PVC: Progressive Visual Token Compression for Unified Image and Video Processing in Large Vision-Language Models
(2024), arXiv 2412.09613.

Everything is a clip: a still picture is shown T times. A timestamp t becomes e_t = mlp(sinusoid(t)), and sets the
norms: AdaLN(x, e) = (1 + scale(e)) norm(x) + shift(e). In the encoder's last L layers, before each layer's spatial
attention, a patch gathers from the same place p in the frames so far (causal), added to its input:
x_t(p) <- x_t(p) + Attn(q_t, k_s, v_s; s <= t), all three from AdaLN(x(p), e).
Then each frame's patches go m squares at a time into the channels (pixel shuffle), through AdaLN and an MLP: m tokens
a frame, T m in all, each frame telling what those before it left out. The first t frames' tokens need no later frame.

Differs from the paper: L = 2 and the gate (the last matrix begins at 0, so that encoding begins as the frozen
encoder's) are ours, since only its abstract and README could be read; the encoder is frozen and, from its last two
layers on, run without CLS; a matrix makes each patch narrow before the shuffle, to keep the MLP small (paper: 1,024
patches to 64 tokens a frame, channels times 16); t counts frames from 0.
Notebook: notebooks/07_project/07_pvc.ipynb.
"""

import math
from collections.abc import Callable, Sequence
from itertools import zip_longest

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from minitok.vlm import VLM

PATCHES = 256  # of a frame


def sinusoid(t: Float[Tensor, " t"], width: int) -> Float[Tensor, "t {width}"]:
    """Cosines, then sines, of t at frequencies that fall from 1 towards 1 / 10,000.

    >>> sinusoid(torch.tensor([0.0, math.pi]), 4).mul(1000).round().int().tolist()
    [[1000, 1000, 0, 0], [-1000, 1000, 0, 31]]
    """
    half = width // 2
    angle = t[:, None] * 10_000 ** (-torch.arange(half, device=t.device) / half)
    return torch.cat([angle.cos(), angle.sin()], 1)


def causal(
    q: Float[Tensor, "b t n h d"], k: Float[Tensor, "b t n h d"], v: Float[Tensor, "b t n h d"]
) -> Float[Tensor, "b t n h d"]:
    """Attention over time: each place n by itself, each frame to itself and those before it."""
    t = q.shape[1]
    logits = torch.einsum("btnhd,bsnhd->bnhts", q, k) / q.shape[-1] ** 0.5
    later = torch.ones(t, t, dtype=torch.bool, device=q.device).triu(1)
    weights = logits.masked_fill(later, -torch.inf).softmax(-1)
    return torch.einsum("bnhts,bsnhd->btnhd", weights, v)


def shuffled(x: Float[Tensor, "b t n c"], m: int) -> Float[Tensor, "b t {m} mc"]:
    """The patches of each of m squares of a frame side by side in the channels, in raster order.

    >>> shuffled(torch.arange(16.0).view(1, 1, 16, 1), 4)[0, 0, 1].tolist()
    [2.0, 3.0, 6.0, 7.0]
    """
    side, few = math.isqrt(x.shape[2]), math.isqrt(m)
    grid = x.unflatten(2, (few, side // few, few, side // few))  # b t i r j s c
    return grid.transpose(3, 4).flatten(4).flatten(2, 3)


class AdaLN(nn.Module):
    """A layer norm whose scale and shift come from the timestamp; at first it is a plain one."""

    def __init__(self, c: int, e: int) -> None:
        super().__init__()
        self.norm, self.modulation = nn.LayerNorm(c, elementwise_affine=False), nn.Linear(e, 2 * c)
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)

    def forward(self, x: Float[Tensor, "b t n c"], time: Float[Tensor, "t e"]) -> Float[Tensor, "b t n c"]:
        scale, shift = self.modulation(time)[:, None].chunk(2, -1)  # t 1 c
        return self.norm(x) * (1 + scale) + shift


class Temporal(nn.Module):
    """Causal attention over time, for each patch place by itself, added to its input; at first it adds nothing."""

    def __init__(self, c: int, e: int, inner: int = 64, heads: int = 2) -> None:
        super().__init__()
        self.heads, self.norm = heads, AdaLN(c, e)
        self.query, self.key, self.value = (nn.Linear(c, inner, bias=False) for _ in range(3))
        self.out = nn.Linear(inner, c, bias=False)
        nn.init.zeros_(self.out.weight)

    def forward(self, x: Float[Tensor, "b t n c"], time: Float[Tensor, "t e"]) -> Float[Tensor, "b t n c"]:
        normed = self.norm(x, time)
        q, k, v = (part(normed).unflatten(-1, (self.heads, -1)) for part in (self.query, self.key, self.value))
        return x + self.out(causal(q, k, v).flatten(3))


class PVC(nn.Module):
    """A clip's frames of 256 patches, or one picture shown `repeats` times, become m tokens a frame.

    `layers` is the paper's L, `e` the width of the time embedding. With `timed=False` the clock stands still.
    k = t m asks for the tokens of the first t frames.
    """

    def __init__(
        self,
        m: int = 4,
        repeats: int = 4,
        timed: bool = True,
        layers: int = 2,
        e: int = 32,
        c: int = 192,
        d: int = 192,
    ) -> None:
        super().__init__()
        for name, value in (("repeats", repeats), ("layers", layers)):
            if value < 1:
                raise ValueError(f"{name}={value} came, expected 1 or more")
        if m < 1 or math.isqrt(m) ** 2 != m or PATCHES % m:
            raise ValueError(f"m={m} came, expected 1, 4, 16, 64 or 256 tokens of a frame of {PATCHES}")
        self.m, self.repeats, self.timed, self.e = m, repeats, timed, e
        self.budgets = tuple(m * t for t in range(repeats, 0, -1))  # of a single picture
        self.embed = nn.Sequential(nn.Linear(e, e), nn.SiLU(), nn.Linear(e, e))
        self.temporal = nn.ModuleList(Temporal(c, e) for _ in range(layers))
        wide = 4 * PATCHES  # channels after the shuffle, whatever m is
        self.narrow, self.norm = nn.Linear(c, wide * m // PATCHES), AdaLN(wide, e)
        self.mlp = nn.Sequential(nn.Linear(wide, d), nn.GELU(), nn.Linear(d, d))

    def clip(self, x: Float[Tensor, "b n c"], k: int | None = None) -> Float[Tensor, "b t p c"]:
        """The frames that k tokens come from; one picture is shown again and again.

        Raises `ValueError` for parts of frames, and for a k that is not m a frame.
        """
        if x.shape[1] % PATCHES:
            raise ValueError(f"{x.shape[1]} patches came, expected frames of {PATCHES}")
        frames = x.unflatten(1, (-1, PATCHES))
        if frames.shape[1] == 1:
            frames = frames.expand(-1, self.repeats, -1, -1)
        promised = [self.m * t for t in range(frames.shape[1], 0, -1)]
        if k not in (None, *promised):
            raise ValueError(f"k={k} came for {frames.shape[1]} frames, expected one of {promised}")
        return frames[:, : (k or promised[0]) // self.m]

    def time(self, frames: Tensor) -> Float[Tensor, "t e"]:
        """The embedding of each frame's timestamp, its number."""
        t = torch.arange(frames.shape[1], device=frames.device) * float(self.timed)
        return self.embed(sinusoid(t, self.e).to(frames.dtype))

    def encode(
        self, frames: Float[Tensor, "b t p c"], spatial: Sequence[Callable[[Tensor], Tensor]] = ()
    ) -> Float[Tensor, "b t p c"]:
        """The last layers of an encoder, each after its temporal attention; `spatial` are the layers, (n, p, c) each.

        Without `spatial`, the temporal layers alone.
        """
        time = self.time(frames)
        for temporal, layer in zip_longest(self.temporal, spatial):
            frames = temporal(frames, time)
            if layer is not None:
                frames = layer(frames.flatten(0, 1)).unflatten(0, frames.shape[:2])
        return frames

    def compress(self, frames: Float[Tensor, "b t p c"]) -> Float[Tensor, "b k d"]:
        """m tokens a frame: each square of patches side by side, normed by the frame's time, through the MLP."""
        tokens = self.norm(shuffled(self.narrow(frames), self.m), self.time(frames))
        return self.mlp(tokens).flatten(1, 2)

    def forward(self, x: Float[Tensor, "b n c"], k: int | None = None) -> Float[Tensor, "b k d"]:
        """The tokens of features that an encoder has finished: the temporal layers stand behind its last one."""
        return self.compress(self.encode(self.clip(x, k)))

    def read(
        self,
        host: VLM,
        x: Float[Tensor, "b n c"],
        words: Int[Tensor, "b t"],
        k: int | None = None,
        *,
        slots: Int[Tensor, " t"] | None = None,
        levels: Float[Tensor, "b l n c"],
    ) -> Float[Tensor, "b t d"]:
        """What the language model makes of the words after a picture encoded with time inside its last layers."""
        body, last = host.vit.body, len(self.temporal)
        positions = x.new_zeros(1, PATCHES)  # the encoder turns nothing by its place
        spatial = [lambda tokens, block=block: block(tokens, positions) for block in body.blocks[-last:]]
        frames = self.encode(self.clip(levels[:, -1 - last], k), spatial)
        return host.read(self.compress(body.norm(frames)), words, slots=slots)
