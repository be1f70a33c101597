"""`tokenizer`: 64x64 photographs to 16x16 codes of 12 bits (384 bytes) and back.

A convolutional encoder with attention on its smallest map, finite scalar quantization of four channels to eight levels
each, and a decoder of the same kind. It learns each image's error in decibels, so that the figure we report is the
figure it was trained for.
"""

import pathlib

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from minitok import codecs
from minitok.data import augment, clothing, photographs
from minitok.house._common import Options, batches, in_chunks
from minitok.house.vit import cls_features
from minitok.metrics import codebook_use, frechet_distance, perplexity, psnr, ssim
from minitok.nn import Shape, Transformer
from minitok.quantize.fsq import FSQ
from minitok.train import Plan, fit, pick_device

DATA = (
    "clothing photographs, 64x64: 3,068 to learn from, 372 held out; 8,192 crops of 11 other photographs "
    "(among them china by danielbuechele and flower by vultilion, both CC BY 2.0)"
)
PLAN = Plan(steps=8000, lr=1e-3, warmup=300, weight_decay=0.01, ema=0.999, compile=True)


class ConvBlock(nn.Module):
    """Normalise, convolve, twice, around which the input passes."""

    def __init__(self, c: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = nn.GroupNorm(8, c), nn.Conv2d(c, c, 3, padding=1)
        self.norm2, self.conv2 = nn.GroupNorm(8, c), nn.Conv2d(c, c, 3, padding=1)

    def forward(self, x: Float[Tensor, "b c H W"]) -> Float[Tensor, "b c H W"]:
        return x + self.conv2(F.silu(self.norm2(self.conv1(F.silu(self.norm1(x))))))


class Global(nn.Module):
    """A few Transformer blocks over the positions of a small map, which see the whole image."""

    def __init__(self, c: int, layers: int, n: int = 256) -> None:
        super().__init__()
        self.position = nn.Parameter(torch.randn(1, n, c) * 0.02)
        self.body = Transformer(Shape(width=c, layers=layers, heads=c // 32, pairing=None))

    def forward(self, x: Float[Tensor, "b c H W"]) -> Float[Tensor, "b c H W"]:
        tokens = x.flatten(2).transpose(1, 2) + self.position
        return x + self.body(tokens, "full").transpose(1, 2).reshape(x.shape)


class Tokenizer(nn.Module):
    """`encode(images) -> codes (b, 256, 1)`, `decode(codes) -> images`; `forward` returns images and codes."""

    grid, bits_per_image = 16, 16 * 16 * 12

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv2d(3, 32, 3, padding=1), ConvBlock(32), nn.Conv2d(32, 96, 4, 2, 1), ConvBlock(96),
            nn.Conv2d(96, 160, 4, 2, 1), ConvBlock(160), Global(160, 2), nn.GroupNorm(8, 160), nn.SiLU(),
            nn.Conv2d(160, 4, 1),
        )  # fmt: skip
        self.quantizer = FSQ((8, 8, 8, 8))
        self.decoder = nn.Sequential(
            nn.Conv2d(4, 160, 3, padding=1), Global(160, 2), ConvBlock(160),
            nn.Conv2d(160, 4 * 96, 3, padding=1), nn.PixelShuffle(2), ConvBlock(96), ConvBlock(96),
            nn.Conv2d(96, 4 * 48, 3, padding=1), nn.PixelShuffle(2), ConvBlock(48), nn.GroupNorm(8, 48), nn.SiLU(),
            nn.Conv2d(48, 3, 3, padding=1),
        )  # fmt: skip

    @property
    def dtype(self) -> torch.dtype:
        """What the networks compute in."""
        return next(self.parameters()).dtype

    def latents(self, images: Float[Tensor, "b 3 64 64"]) -> Float[Tensor, "b 256 4"]:
        """What is quantized: one vector of four channels a position, in raster order."""
        x = (images * 2 - 1).to(self.dtype)
        return self.encoder(x).flatten(2).transpose(1, 2)

    def paint(self, values: Float[Tensor, "b 256 4"]) -> Float[Tensor, "b 3 64 64"]:
        """Images from quantized (or any other) values; not clamped, so that gradients pass."""
        grid = values.transpose(1, 2).unflatten(2, (self.grid, self.grid)).to(self.dtype)
        return (self.decoder(grid) + 1) / 2

    def encode(self, images: Float[Tensor, "b 3 64 64"]) -> Int[Tensor, "b 256 1"]:
        """The codes of images in [0, 1], in raster order."""
        return self.quantizer.encode(self.latents(images).float())

    def decode(self, codes: Int[Tensor, "b 256 1"]) -> Float[Tensor, "b 3 64 64"]:
        """Images in [0, 1] from codes."""
        return self.paint(self.quantizer.decode(codes)).float().clamp(0, 1)

    def forward(self, images: Float[Tensor, "b 3 64 64"]) -> tuple[Float[Tensor, "b 3 64 64"], Int[Tensor, "b 256 1"]]:
        quantized = self.quantizer(self.latents(images).float())
        return self.paint(quantized.values), quantized.codes


build = Tokenizer


def decibels(x: Tensor, y: Tensor) -> Tensor:
    """The mean over images of the error's logarithm, the negative of what `psnr` counts (in units of 4.34 dB)."""
    return ((x.float() - y).pow(2).mean((1, 2, 3)) + 1e-5).log().mean()


def train(folder: pathlib.Path, options: Options) -> nn.Module:
    """Three quarters of a batch are views of clothes, one quarter crops of other photographs."""
    device = pick_device(options.device)
    clothes = batches(device, clothing.load("train").images)
    others = batches(device, photographs.crops(8192, 64, seed=1))

    def loss(model: nn.Module, step: int) -> Tensor:
        (first,), (second,) = clothes(96), others(32)
        first = augment.affine(first, zoom=(0.5, 1.0), degrees=5.0, flip=True, squeeze=1.3)
        images = torch.cat([first, augment.affine(second, flip=True)])
        return decibels(model(images)[0], images)

    return fit(build(), loss, options.apply(PLAN), folder, **options.where())


def quick(model: Tokenizer) -> dict[str, float]:
    """PSNR of every eighth test photograph: a figure of the card that a test recomputes in seconds."""
    images = clothing.load("test").images[::8]
    rebuilt = in_chunks(lambda x: model.decode(model.encode(x)), images)
    return {"PSNR of every eighth test photograph (dB)": float(psnr(rebuilt, images).mean())}


@torch.no_grad()
def measure(model: Tokenizer) -> dict[str, float]:
    """Held-out photographs rebuilt from their codes, beside JPEG and WebP files of at most as many bytes."""
    images, budget = clothing.load("test").images, model.bits_per_image // 8
    codes = in_chunks(model.encode, images)
    rebuilt = {"codes": in_chunks(model.decode, codes)}
    rebuilt |= {name: codecs.at_budget(images, budget, name).images for name in ("JPEG", "WEBP")}
    figures = {"bytes an image": float(budget), "codebook use (%)": 100 * codebook_use(codes, 4096)}
    figures["codebook perplexity"] = perplexity(codes, 4096)
    features = cls_features(images)
    for name, pictures in rebuilt.items():
        figures[f"PSNR from {name} (dB)"] = float(psnr(pictures, images).mean())
        figures[f"SSIM from {name}"] = float(ssim(pictures, images).mean())
        figures[f"Frechet distance from {name}"] = frechet_distance(cls_features(pictures), features)
    return figures | quick(model)
