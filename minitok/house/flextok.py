"""`flextok`: 64x64 photographs to 64 ordered tokens of 12 bits; any prefix becomes a plausible photograph.

The part of the paper's VAE is played by the house tokenizer: its 16x16 map of four channels before they are rounded,
in 2x2 patches.
"""

import pathlib

import torch
from jaxtyping import Float
from torch import Tensor, nn

from minitok.house import _one_d
from minitok.house._common import Options
from minitok.house._one_d import house_tokenizer
from minitok.house.tokenizer import DATA as PHOTOGRAPHS
from minitok.image.flextok import Codec, FlexTok
from minitok.image.titok import Sizes
from minitok.quantize.fsq import bound
from minitok.train import Plan, fit, pick_device

DATA = f"{PHOTOGRAPHS}; all as maps of the house tokenizer"
PLAN = Plan(steps=10000, lr=1e-3, warmup=500, weight_decay=0.01, ema=0.999, compile=True)
# Mean and spread of the maps over the training photographs, rounded.
MEAN, SPREAD = -0.18, 0.5
GUIDANCE = 2.0


@torch.no_grad()
def read(images: Float[Tensor, "b 3 64 64"]) -> Float[Tensor, "b 4 16 16"]:
    """The tokenizer's channels, bounded but not rounded, moved and scaled to mean 0 and spread 1."""
    tokenizer = house_tokenizer().to(images.device)
    levels = tokenizer.quantizer.levels
    values = bound(tokenizer.latents(images).float(), levels) / (levels // 2)
    return ((values - MEAN) / SPREAD).transpose(1, 2).unflatten(2, (16, 16))


@torch.no_grad()
def show(maps: Float[Tensor, "b 4 16 16"]) -> Float[Tensor, "b 3 64 64"]:
    """What the tokenizer paints of maps."""
    tokenizer = house_tokenizer().to(maps.device)
    values = (maps * SPREAD + MEAN).clamp(-1, 1).flatten(2).transpose(1, 2)
    return tokenizer.paint(values).float().clamp(0, 1)


def build() -> FlexTok:
    """2.0 million parameters: three layers of encoder, six of flow."""
    sizes = Sizes(size=16, patch=2, channels=4, width=128, layers=3, heads=4)
    return FlexTok(sizes, layers=6, codec=Codec(read, show, size=64))


def train(folder: pathlib.Path, options: Options) -> nn.Module:
    """The flow's error on the maps of random views."""
    draw = _one_d.views(pick_device(options.device))

    def loss(model: nn.Module, step: int) -> Tensor:
        return model(read(draw())).error.mean()

    return fit(build(), loss, options.apply(PLAN), folder, **options.where())


def quick(model: FlexTok) -> dict[str, float]:
    """PSNR of some test photographs: a figure of the card that a test recomputes in seconds."""
    return _one_d.quick(model, every=32)


def measure(model: FlexTok) -> dict[str, float]:
    """Test photographs from prefixes of their tokens, without guidance and with it."""
    figures = _one_d.measure(model, guidance=1.0)
    guided = _one_d.measure(model, guidance=GUIDANCE)
    figures |= {f"{name} with guidance": value for name, value in guided.items() if " from " in name}
    return figures | {"guidance": GUIDANCE} | quick(model)
