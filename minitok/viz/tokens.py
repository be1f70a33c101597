"""What a reduction made of a picture's patches, as a picture."""

from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor


def painted(image: Float[Tensor, "c H W"], reduction: Any, patch: int = 4, scale: int = 2) -> Float[Tensor, "c h w"]:
    """The image as its reduced tokens hold it, `scale` times as large; a `Reduction` of one row, in raster order.

    Each patch has the mean of the outputs that it went into: kept patches are as they were, dropped ones dark, merged
    ones have their group's mean, and a white rim runs between groups. (Parts of a group need not touch.)
    """
    c, h, w = image.shape
    pixels = rearrange(image, "c (r i) (s j) -> 1 (r s) (c i j)", i=patch, j=patch)
    restored = reduction.restore(reduction.apply(pixels))[0]
    shape = {"r": h // patch, "s": w // patch, "c": c, "i": patch, "j": patch}
    canvas = rearrange(restored, "(r s) (c i j) -> c (r i) (s j)", **shape)
    canvas = canvas.repeat_interleave(scale, 1).repeat_interleave(scale, 2)
    shares, size = reduction.shares()[0], patch * scale
    if shares.sum(1).max() <= 1 or not shares.bool().sum(0).le(1).all():
        return canvas  # nothing was merged, or patches went into several outputs: there are no groups to draw
    group = torch.where(shares.any(0), shares.argmax(0), -1).view(h // patch, w // patch)
    group = group.repeat_interleave(size, 0).repeat_interleave(size, 1)
    rim = torch.zeros_like(group, dtype=torch.bool)
    rim[1:] |= group[1:] != group[:-1]
    rim[:, 1:] |= group[:, 1:] != group[:, :-1]
    return canvas.masked_fill(rim, 1.0)


def strip(
    pictures: Float[Tensor, "p c H W"], reduction: Any, patch: int = 8, scale: int = 2
) -> Float[Tensor, "c h all_w"]:
    """Several pictures side by side, as their reduced tokens hold them; the tokens stand one picture after another."""
    made = painted(pictures.transpose(0, 1).flatten(1, 2), reduction, patch, scale)
    return torch.cat(made.chunk(len(pictures), 1), 2)
