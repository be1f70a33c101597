"""What keeps photographs in as many bits as the tokenizers of chapter 2, and is no tokenizer of it.

A rival is a function of photographs and a number of bits for each, which gives what it kept.
"""

import copy
import functools
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from minitok import codecs
from minitok.house._common import in_chunks
from minitok.house._one_d import house_tokenizer
from minitok.house.tokenizer import Global, Tokenizer

Rival = Callable[[Tensor, int], Tensor]

# The mean squared error of normal numbers in the best 1, 2, 4, ... cells, of a variance of 1 (J. Max, 1960).
NORMAL_ERROR = torch.tensor([1, 0.3634, 0.1175, 0.03454, 0.009497, 0.002499, 0.00064, 0.00016, 0.00004, 0.00001, 0])


def plain(images: Float[Tensor, "b c H W"], bits: int) -> Float[Tensor, "b c H W"]:
    """One colour, the mean, of each photograph; it is not counted in bits, which favours it."""
    return images.mean((2, 3), keepdim=True).expand_as(images)


def webp(images: Float[Tensor, "b 3 H W"], bits: int) -> Float[Tensor, "b 3 H W"]:
    """WebP files of at most so many bits. Raises `ValueError` where none is small enough."""
    return codecs.at_budget(images, bits // 8, "WEBP").images


def thumbnails(images: Float[Tensor, "b 3 64 64"], bits: int = 768) -> Float[Tensor, "b 3 64 64"]:
    """What another 64 tokens of 12 bits keep: the 2D tokenizer's, of photographs made smaller, enlarged again.

    Tokens that do have a place; nothing is trained for it. Raises `ValueError` for another number of bits.
    """
    if bits != 768:
        raise ValueError(f"bits={bits} came, expected 768: a thumbnail has 64 codes of 12 bits")
    return in_chunks(_through, images)


def _through(images: Float[Tensor, "b 3 64 64"]) -> Float[Tensor, "b 3 64 64"]:
    tokenizer, small = small_tokenizer(), resized(images, 32)
    codes = tokenizer.quantizer.encode(tokenizer.encoder(small * 2 - 1).flatten(2).transpose(1, 2))
    values = tokenizer.quantizer.decode(codes).transpose(1, 2).unflatten(2, (8, 8))
    return resized((tokenizer.decoder(values) + 1) / 2, 64)


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


class Linear(NamedTuple):
    """Principal components: the mean of the images they come from, the axes, and where these images lie on them.

    Called, it is a rival: images from so many bits of their places, each bit where it lowers the error most.
    """

    mean: Float[Tensor, "m"]
    axes: Float[Tensor, "m q"]
    places: Float[Tensor, "b q"]

    def __call__(self, images: Float[Tensor, "b c H W"], bits: int) -> Float[Tensor, "b c H W"]:
        """Images from so many bits of their places."""
        places = (images.flatten(1) - self.mean) @ self.axes
        kept = torch.zeros_like(places)
        for i, spent in enumerate(self.spent(bits).tolist()):
            if spent:
                edges, values = levels(self.places[:, i].contiguous(), spent)
                kept[:, i] = values[torch.bucketize(places[:, i].contiguous(), edges)]
        return (kept @ self.axes.T + self.mean).view_as(images).clamp(0, 1)

    def spent(self, bits: int) -> Tensor:
        """How many of the bits each axis gets, one after another where it lowers the error most."""
        spent, variance = torch.zeros(self.axes.shape[1]).long(), self.places.var(0)
        gain = -NORMAL_ERROR.diff()
        for _ in range(bits):
            spent[(variance * gain[spent]).argmax()] += 1
        return spent


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
