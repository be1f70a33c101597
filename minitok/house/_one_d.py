"""What the tokenizers of one-dimensional tokens share: the views they learn from, their figures, and their rivals'."""

import copy
import functools
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from minitok import codecs
from minitok.data import augment, clothing, photographs
from minitok.house._common import Options, batches, in_chunks
from minitok.house.tokenizer import Global, Tokenizer, decibels
from minitok.house.vit import cls_features
from minitok.image._common import Tokens
from minitok.metrics import codebook_use, frechet_distance, perplexity, psnr, ssim
from minitok.train import Plan, fit, pick_device

# The mean squared error of normal numbers in the best 1, 2, 4, ... cells, of a variance of 1 (J. Max, 1960).
NORMAL_ERROR = torch.tensor([1, 0.3634, 0.1175, 0.03454, 0.009497, 0.002499, 0.00064, 0.00016, 0.00004, 0.00001, 0])
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


def rebuilt(model: Any, codes: Tensor, k: int, **settings: float) -> Float[Tensor, "b 3 64 64"]:
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


@functools.cache
def small_tokenizer() -> Tokenizer:
    """The shipped 2D tokenizer for 32x32 pictures, 8x8 codes: of four learnt positions, 2x2, the mean."""
    tokenizer = copy.deepcopy(house_tokenizer())
    tokenizer.grid //= 2
    for part in tokenizer.modules():
        if isinstance(part, Global):
            places = part.position.transpose(1, 2).unflatten(2, (2 * tokenizer.grid, 2 * tokenizer.grid))
            part.position = nn.Parameter(F.avg_pool2d(places, 2).flatten(2).transpose(1, 2), requires_grad=False)
    return tokenizer


def resized(images: Float[Tensor, "b 3 H W"], size: int) -> Float[Tensor, "b 3 {size} {size}"]:
    """Images at another size (bicubic, smoothed first where it is smaller)."""
    return F.interpolate(images, (size, size), mode="bicubic", antialias=True).clamp(0, 1)


@torch.no_grad()
def through_thumbnails(images: Float[Tensor, "b 3 64 64"]) -> Float[Tensor, "b 3 64 64"]:
    """What another 64 tokens of 12 bits keep of images: the 2D tokenizer's, of thumbnails, enlarged again.

    A tokenizer of the same bits whose tokens do have a place; nothing is trained for it.
    """
    tokenizer, small = small_tokenizer(), resized(images, 32)
    codes = tokenizer.quantizer.encode(tokenizer.encoder(small * 2 - 1).flatten(2).transpose(1, 2))
    values = tokenizer.quantizer.decode(codes).transpose(1, 2).unflatten(2, (8, 8))
    return resized((tokenizer.decoder(values) + 1) / 2, 64)


def rivals(budget: int = 96) -> dict[str, float]:
    """The figures of others that keep a photograph in as many bytes as 64 tokens."""
    images = clothing.load("test").images
    features = cls_features(images)
    figures = quality("8x8 codes of thumbnails", in_chunks(through_thumbnails, images), images, features)
    return figures | quality("WEBP", codecs.at_budget(images, budget, "WEBP").images, images, features)


class Linear(NamedTuple):
    """Principal components: the mean of the images they come from, the axes, and where these images lie on them."""

    mean: Float[Tensor, "m"]
    axes: Float[Tensor, "m q"]
    places: Float[Tensor, "b q"]


def principal_components(images: Float[Tensor, "b c H W"], q: int = 300) -> Linear:
    """The q directions in which images differ most: the classical way to say first what matters most."""
    mean = images.mean(0).flatten()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        axes = torch.svd_lowrank(images.flatten(1) - mean, q)[2]
    return Linear(mean, axes, (images.flatten(1) - mean) @ axes)


def levels(places: Float[Tensor, "b"], bits: int) -> tuple[Float[Tensor, "edges"], Float[Tensor, "cells"]]:
    """The edges and the values of 2^bits cells for numbers spread like `places`, which are about normal.

    Cells for the least squared error are as dense as the cube root of the density, a normal one sqrt(3) times as wide;
    each cell's value is the mean of its places.
    """
    shares = torch.arange(1, 2**bits, device=places.device) / 2**bits
    edges = places.std() * 3**0.5 * torch.special.ndtri(shares)
    cells = torch.bucketize(places, edges)
    middles = (torch.cat([edges[:1], edges]) + torch.cat([edges, edges[-1:]])) / 2
    counts = cells.bincount(minlength=2**bits)
    means = middles.new_zeros(2**bits).index_add(0, cells, places) / counts
    return edges, torch.where(counts > 0, means, middles)


def linear_code(linear: Linear, images: Float[Tensor, "b c H W"], bits: int) -> Float[Tensor, "b c H W"]:
    """Images from so many bits of their principal components; each bit goes where it lowers the error most."""
    places = (images.flatten(1) - linear.mean) @ linear.axes
    spent, variance, gain = torch.zeros(places.shape[1]).long(), linear.places.var(0), -NORMAL_ERROR.diff()
    for _ in range(bits):
        spent[(variance * gain[spent]).argmax()] += 1
    kept = torch.zeros_like(places)
    for i in spent.nonzero().flatten():
        edges, values = levels(linear.places[:, i].contiguous(), int(spent[i]))
        kept[:, i] = values[torch.bucketize(places[:, i].contiguous(), edges)]
    return (kept @ linear.axes.T + linear.mean).view_as(images).clamp(0, 1)


def linear_rivals(bits: float = 12) -> dict[str, float]:
    """The figures of principal components of the training photographs in as many bits as 1, 2, 4, ... 64 tokens."""
    images, linear = clothing.load("test").images, principal_components(clothing.load("train").images)
    features, figures = cls_features(images), {}
    for k in lengths(64):
        pictures = linear_code(linear, images, round(k * bits))
        figures |= quality(f"principal components in the bits of {k} tokens", pictures, images, features)
    return figures
