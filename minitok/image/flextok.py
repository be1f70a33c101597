"""FlexTok: ordered tokens of which any number makes a plausible image.

Bachmann, Allardice, Mizrahi, Fini, Kar, Amirloo, El-Nouby, Zamir, Dehghan: FlexTok: Resampling Images into 1D Token
Sequences of Flexible Length, 2025, arXiv 2502.13967.

Mechanism: patches of a VAE's map x and n registers go through a Transformer in which patches see patches, and a
register all patches and the registers up to itself; FSQ quantizes the registers. Nested dropout: for each image k is
drawn, and all registers after the first k become one learnt mask token. The decoder is a rectified flow: it reads the
registers r and the patches of `x_s = (1 - s) x + s noise`, and learns the velocity, `|v(x_s, s, r) - (noise - x)|^2`;
s, the sigmoid of a normal number, enters by adaptive norms. Decoding walks from noise, s = 1, to an image, s = 0, in
Euler steps, with adaptive projected guidance (APG, arXiv 2410.02416).
Differs from the paper: 4,096 codes (8, 8, 8, 8), not 64,000 (8, 8, 8, 5, 5, 5); k is a power of two, one of the paper's
two draws (the released class draws any k by default); guidance's null condition is k = 0, all mask tokens; patches and
registers share adaptive norms; no REPA loss; learnt positions; the VAE is the caller's (`codec`), else pixels.
Notebook: notebooks/02_image/04_flextok.ipynb
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from minitok.image._common import Tokens, check_images, check_tokens, unpatch
from minitok.image.titok import Encoder, Sizes
from minitok.nn import Shape, Transformer
from minitok.quantize.fsq import FSQ

SIZES = Sizes(width=128, layers=3, heads=4)


class Codec(NamedTuple):
    """How images in [0, 1] become the maps that the flow paints, and back; by default their pixels in [-1, 1]."""

    read: Callable[[Tensor], Tensor] = lambda images: images * 2 - 1
    show: Callable[[Tensor], Tensor] = lambda maps: ((maps + 1) / 2).clamp(0, 1)
    size: int = 64


class Flowed(NamedTuple):
    """What `forward` returns: each image's error of the velocity, the registers' codes, and the quantizer's loss."""

    error: Float[Tensor, "b"]
    codes: Int[Tensor, "b n g"]
    loss: Float[Tensor, ""]


def blocks(patches: int, registers: int) -> Int[Tensor, "m"]:
    """The block numbers of the encoder's mask: a token sees its own block and those with lower numbers.

    >>> blocks(3, 2).tolist()
    [0, 0, 0, 1, 2]
    """
    return torch.cat([torch.zeros(patches, dtype=torch.long), torch.arange(1, registers + 1)])


def nested_dropout(
    x: Float[Tensor, "b n c"], kept: Int[Tensor, "b"], mask: Float[Tensor, "c"]
) -> Float[Tensor, "b n c"]:
    """Puts the mask token in the place of all but the first `kept` tokens of each row.

    >>> nested_dropout(torch.ones(1, 3, 1), torch.tensor([1]), torch.tensor([9.0])).flatten().tolist()
    [1.0, 9.0, 9.0]
    """
    keep = torch.arange(x.shape[1], device=x.device) < kept[:, None]
    return torch.where(keep[..., None], x, mask.to(x.dtype))


def draw_kept(b: int, n: int, device: torch.device, null: float = 0.1) -> Int[Tensor, "b"]:
    """How many of n tokens each of b images keeps: 1, 2, 4, ... or n, each as likely, or 0 by chance `null`.

    Raises `ValueError` unless n is a power of two: all n tokens together would never be trained.
    """
    if n < 1 or n & (n - 1):
        raise ValueError(f"n={n} tokens came, expected a power of two")
    powers = 2 ** torch.randint(0, n.bit_length(), (b,), device=device)
    return torch.where(torch.rand(b, device=device) < null, torch.zeros_like(powers), powers)


def guide(
    velocity: Float[Tensor, "b c H W"],
    null: Float[Tensor, "b c H W"],
    scale: float,
    before: Float[Tensor, "b c H W"] | float = 0.0,
    threshold: float = 2.5,
) -> tuple[Float[Tensor, "b c H W"], Float[Tensor, "b c H W"]]:
    """Adaptive projected guidance: the guided velocity, and the difference to give as `before` in the next step.

    The difference from the null condition's velocity has a momentum of -0.5, is at most `threshold` long, and only its
    part orthogonal to the velocity counts, `scale` - 1 times. Source: arXiv 2410.02416, with the momentum and the
    threshold of FlexTok's code.
    """
    difference = velocity - null - 0.5 * before
    length = difference.flatten(1).norm(dim=1)[:, None, None, None]
    short = difference * (threshold / length.clamp(min=1e-12)).clamp(max=1)
    along = F.normalize(velocity.flatten(1), dim=1).view_as(velocity)
    across = short - (short * along).sum((1, 2, 3), keepdim=True) * along
    return velocity + (scale - 1) * across, difference


class Flow(nn.Module):
    """The velocity of noised maps, given s and register embeddings."""

    def __init__(self, sizes: Sizes, layers: int, condition: int = 32) -> None:
        super().__init__()
        c = sizes.width
        self.patches, self.patch = nn.Conv2d(sizes.channels, c, sizes.patch, sizes.patch), sizes.patch
        self.position = nn.Parameter(torch.randn(sizes.patches, c) * 0.02)
        self.time = nn.Sequential(nn.Linear(64, condition), nn.SiLU(), nn.Linear(condition, condition))
        shape = Shape(width=c, layers=layers, heads=sizes.heads, pairing=None, condition=condition)
        self.body, self.out = Transformer(shape), nn.Linear(c, sizes.channels * sizes.patch**2)

    def forward(
        self, noised: Float[Tensor, "b c H W"], s: Float[Tensor, "b"], registers: Float[Tensor, "b n w"]
    ) -> Float[Tensor, "b c H W"]:
        frequency = 1000 * torch.exp(-math.log(10_000) * torch.arange(32, device=s.device) / 32)
        angle = s[:, None] * frequency
        time = self.time(torch.cat([angle.cos(), angle.sin()], dim=-1).to(registers.dtype))
        patches = self.patches(noised.to(registers.dtype)).flatten(2).transpose(1, 2) + self.position
        joined = self.body(torch.cat([patches, registers], dim=1), "full", condition=time)
        return unpatch(self.out(joined[:, : patches.shape[1]]), self.patch).float()


class FlexTok(nn.Module):
    """`encode(images) -> Tokens`, `decode(tokens[:k]) -> images`, any k. Half precision quantizes in float32."""

    def __init__(self, sizes: Sizes = SIZES, layers: int = 6, codec: Codec | None = None) -> None:
        super().__init__()
        self.sizes, self.codec = sizes, codec or Codec(size=sizes.size)
        self.quantizer = FSQ((8, 8, 8, 8))
        self.encoder, self.flow = Encoder(sizes, self.quantizer.d), Flow(sizes, layers)
        self.enter = nn.Linear(self.quantizer.d, sizes.width)
        self.place = nn.Parameter(torch.randn(sizes.tokens, sizes.width) * 0.02)
        self.mask = nn.Parameter(torch.randn(sizes.width) * 0.02)
        self.blocks: Tensor
        self.register_buffer("blocks", blocks(sizes.patches, sizes.tokens), persistent=False)

    @property
    def bits(self) -> float:
        """Bits a token."""
        return self.quantizer.bits

    def registers(self, maps: Float[Tensor, "b c H W"]) -> Float[Tensor, "b n d"]:
        """What is quantized: register i depends on the maps and on the registers before it."""
        return self.encoder(maps, self.blocks).float()

    def embedded(self, values: Float[Tensor, "b n d"], kept: Int[Tensor, "b"]) -> Float[Tensor, "b n w"]:
        """What the flow reads of quantized registers: their embeddings, or the mask token, at their places."""
        return nested_dropout(self.enter(values.to(self.place.dtype)), kept, self.mask) + self.place

    def forward(self, maps: Float[Tensor, "b c H W"]) -> Flowed:
        """The flow's error at a random s and a random number of registers for each of the maps."""
        maps, b, device = maps.float(), len(maps), maps.device
        values, codes, loss = self.quantizer(self.registers(maps))
        embedded = self.embedded(values, draw_kept(b, values.shape[1], device))
        noise, s = torch.randn_like(maps), torch.randn(b, device=device).sigmoid()
        weight = s[:, None, None, None]
        velocity = self.flow((1 - weight) * maps + weight * noise, s, embedded)
        return Flowed((velocity - (noise - maps)).square().mean((1, 2, 3)), codes, loss)

    def encode(self, images: Float[Tensor, "b 3 H W"]) -> Tokens:
        """The tokens of images in [0, 1]."""
        check_images(images, self.codec.size)
        return Tokens(self.quantizer.encode(self.registers(self.codec.read(images))), (self.sizes.tokens,))

    @torch.no_grad()
    def decode(self, tokens: Tokens, steps: int = 20, guidance: float = 1.0, seed: int = 0) -> Float[Tensor, "b 3 H W"]:
        """Images in [0, 1], drawn with `seed`; each step calls the flow once, or twice where `guidance` is not 1.

        The noise of a seed is the same on every device, for it is drawn on the CPU, which `torch.compile` cannot do:
        compile `walk`. Raises `ValueError` for tokens of another layout, for steps below 1, and for a guidance below 0
        or not finite.
        """
        check_tokens(tokens, self.sizes.tokens)
        if steps < 1 or not 0 <= guidance < math.inf:
            raise ValueError(f"steps={steps} and guidance={guidance} came, expected at least 1 and a finite one from 0")
        values = self.quantizer.decode(tokens.codes)
        shape = (len(values), self.sizes.channels, self.sizes.size, self.sizes.size)
        noise = torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(values.device)
        return self.codec.show(self.walk(noise, values, steps, guidance))

    def walk(
        self, x: Float[Tensor, "b c H W"], values: Float[Tensor, "b k d"], steps: int, guidance: float = 1.0
    ) -> Float[Tensor, "b c H W"]:
        """From noise x to maps, in Euler steps, told the first k registers' quantized values."""
        b, k, device = len(values), values.shape[1], values.device
        values = F.pad(values, (0, 0, 0, self.sizes.tokens - k))
        embedded = self.embedded(values, torch.full((b,), k, device=device))
        null = self.embedded(values, torch.zeros(b, dtype=torch.long, device=device)) if guidance != 1 else None
        difference: Tensor | float = 0.0
        for step in range(steps, 0, -1):
            s = torch.full((b,), step / steps, device=device)
            velocity = self.flow(x, s, embedded)
            if null is not None:
                velocity, difference = guide(velocity, self.flow(x, s, null), guidance, difference)
            x = x - velocity / steps
        return x
