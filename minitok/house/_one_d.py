"""What the tokenizers of one-dimensional tokens share: the views they learn from, and their figures."""

import functools
import pathlib
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from minitok.data import augment, clothing, photographs
from minitok.house._common import Options, batches, in_chunks
from minitok.house.tokenizer import Tokenizer, decibels
from minitok.house.vit import cls_features
from minitok.image._common import Tokens
from minitok.metrics import codebook_use, frechet_distance, perplexity, psnr, ssim
from minitok.train import Plan, fit, pick_device

PLAN = Plan(steps=10000, lr=1e-3, warmup=500, weight_decay=0.01, ema=0.999, compile=True)


def views(device: torch.device, clothes: int = 224, others: int = 32) -> Callable[[], Float[Tensor, "b 3 64 64"]]:
    """A function that draws views of clothes, and some of other photographs, so that any picture can be tokenized."""
    draw_clothes = batches(device, clothing.load("train").images)
    draw_others = batches(device, photographs.crops(8192, 64, seed=1))

    def draw() -> Tensor:
        (first,), (second,) = draw_clothes(clothes), draw_others(others)
        first = augment.affine(first, zoom=(0.7, 1.0), degrees=5.0, flip=True, squeeze=1.3)
        return torch.cat([first, augment.affine(second, flip=True)])

    return draw


def train(model: nn.Module, folder: pathlib.Path, options: Options) -> nn.Module:
    """Each view's error in decibels after all that the model does to its tokens, and the quantizer's loss."""
    draw = views(pick_device(options.device))

    def loss(model: nn.Module, step: int) -> Tensor:
        images = draw()
        rebuilt = model(images)
        return decibels(rebuilt.images, images) + rebuilt.loss

    return fit(model, loss, options.apply(PLAN), folder, **options.where())


def lengths(n: int) -> list[int]:
    """1, 2, 4 and so on, and n."""
    return sorted({2**i for i in range(n.bit_length()) if 2**i <= n} | {n})


def rebuilt(model: Any, codes: Tensor, k: int, **settings: float | int) -> Float[Tensor, "b 3 64 64"]:
    """Images from the first k codes, decoded with `settings`."""
    n = codes.shape[1]
    return in_chunks(lambda part: model.decode(Tokens(part, (n,))[:k], **settings), codes)


def quick(model: Any, every: int = 8) -> dict[str, float]:
    """PSNR of some test photographs from all tokens: a figure of the card that a test recomputes in seconds."""
    images = clothing.load("test").images[::every]
    codes = in_chunks(lambda x: model.encode(x).codes, images)
    name = f"PSNR of every {every}th test photograph (dB)"
    return {name: float(psnr(rebuilt(model, codes, codes.shape[1]), images).mean())}


@torch.no_grad()
def measure(model: Any, **settings: float) -> dict[str, float]:
    """Held-out photographs rebuilt from the first 1, 2, 4, ... of their tokens, decoded with `settings`."""
    images, device = clothing.load("test").images, pick_device()
    model = model.to(device)
    codes = in_chunks(lambda x: model.encode(x.to(device)).codes, images)
    n, features = codes.shape[1], cls_features(images)
    figures = {"tokens": float(n), "bytes an image": n * model.bits / 8}
    figures["codebook use (%)"] = 100 * codebook_use(codes.cpu(), model.quantizer.K)
    figures["codebook perplexity"] = perplexity(codes.cpu(), model.quantizer.K)
    for k in lengths(n):
        figures |= quality(f"{k} tokens", rebuilt(model, codes, k, **settings).cpu(), images, features)
    model.cpu()
    return figures


def quality(name: str, pictures: Tensor, images: Tensor, features: Float[Tensor, "b c"]) -> dict[str, float]:
    """How near pictures are to the images with these CLS features."""
    return {
        f"PSNR from {name} (dB)": float(psnr(pictures, images).mean()),
        f"SSIM from {name}": float(ssim(pictures, images).mean()),
        f"Frechet distance from {name}": frechet_distance(cls_features(pictures), features),
    }


@functools.cache
def house_tokenizer() -> Tokenizer:
    """The shipped 2D tokenizer, which all of this process share."""
    from minitok import house

    return house.load("tokenizer")
