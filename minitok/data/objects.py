"""What a scene holds, as tensors, and the random placing of it. `minitok.data.scenes` draws it."""

import math
from dataclasses import dataclass, fields
from typing import TypeVar

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from minitok.data.shapes import COLOURS, GLYPHS, SHAPES, SIZES, dots

MOST = 9
Kind = TypeVar("Kind", bound="Objects")


@dataclass(frozen=True)
class Objects:
    """What stands in each of n scenes, in m slots; a later slot lies in front of an earlier one.

    `shape`, `colour` and `size` are indexes into `SHAPES`, `COLOURS` and `SIZES`; `glyph` is the digit
    itself, or -1 for none. `place` writes -1 into all four where nothing is present. `centre` is (x, y) from
    the picture's upper left corner, so the middle of its first pixel is (0.5, 0.5); `radius` likewise is in
    pixels. For a clip move `centre` and draw again: the slot is the object's identity along its track.
    """

    present: Bool[Tensor, "n m"]
    shape: Int64[Tensor, "n m"]
    colour: Int64[Tensor, "n m"]
    size: Int64[Tensor, "n m"]
    glyph: Int64[Tensor, "n m"]
    centre: Float[Tensor, "n m 2"]
    radius: Float[Tensor, "n m"]

    def __getitem__(self: Kind, rows: slice) -> Kind:
        """The scenes of a slice: `scenes[:8]`."""
        return type(self)(*(getattr(self, field.name)[rows] for field in fields(self)))


@dataclass(frozen=True)
class Scenes(Objects):
    """Objects and their picture in [0, 1].

    A mask holds the pixels that show the object: at least half covered by it, less than half by each object
    in front. A box is (left, top, right, bottom) of that visible mask in pixels; right and bottom lie just
    past its last pixel. An object of which no pixel shows is not `present`: an empty mask, a box of zeros.
    """

    images: Float[Tensor, "n 3 H W"]
    masks: Bool[Tensor, "n m H W"]
    boxes: Float[Tensor, "n m 4"]


def _mix(x: Int64[Tensor, "*n"]) -> Int64[Tensor, "*n"]:
    # The finaliser of SplitMix64 (Steele, Lea and Flood 2014), its factors as signed numbers.
    for shift, factor in ((30, -0x40A7B892E31B1A47), (27, -0x6B2FB644ECCEEE15)):
        x = (x ^ (x >> shift & (1 << 64 - shift) - 1)) * factor
    return x ^ (x >> 31 & (1 << 33) - 1)


def uniform(n: int, width: int, stream: int, device: str | torch.device) -> Float[Tensor, "n width"]:
    """Numbers in [0, 1), each a hash of (stream, row, column): no row depends on n, none on the device."""
    start = _mix(torch.tensor((stream + 2**63) % 2**64 - 2**63, device=device))
    count = torch.arange(1, n * width + 1, device=device).view(n, width)
    return (_mix(start + count * -0x61C8864680B583EB) >> 40 & 0xFFFFFF) / 2**24


def place(
    n: int, *, size: int = 64, seed: int = 0, max_objects: int = 4, device: str | torch.device = "cpu"
) -> Objects:
    """Draws what is in n scenes: 1 to `max_objects` (at most 9) objects in different cells of a grid.

    Their number, shape, colour and size are independent and uniform; half of the objects with room for a
    digit have one. Neighbours may overlap a little, but hide no digit; every object lies inside the picture
    of `size` pixels, which is at least 24, or 36 for more than 4 objects.
    """
    if n < 1:
        raise ValueError(f"n={n} is less than 1")
    if not 1 <= max_objects <= MOST:
        raise ValueError(f"max_objects={max_objects} is not in 1..{MOST}")
    side = max(2, math.isqrt(max_objects - 1) + 1)
    # In narrower cells a small star or ring can fall between the pixels.
    if size < 12 * side:
        raise ValueError(f"size={size} is too small for max_objects={max_objects}: it takes {12 * side} or more")
    widths = [1, side**2, 8 * max_objects]
    count, order, rest = uniform(n, sum(widths), 2 * seed, device).split(widths, 1)
    cells = order.argsort(dim=1, stable=True)[:, :max_objects]
    kind, hue, big, digit, has, wide, *jitter = rest.view(n, max_objects, 8).unbind(2)
    shape, colour, bulk = (kind * len(SHAPES)).long(), (hue * len(COLOURS)).long(), (big * len(SIZES)).long()
    cell = size / side
    radius = torch.tensor(list(SIZES.values()), device=device)[bulk] * cell * (0.94 + 0.12 * wide)
    reach = (cell / 2 - 0.85 * radius)[..., None]
    middle = (torch.stack([cells % side, cells // side], 2) + 0.5) * cell
    margin = (1.1 * radius + 0.5)[..., None]
    centre = (middle + (2 * torch.stack(jitter, 2) - 1) * reach).maximum(margin).minimum(size - margin)
    glyph = (digit * len(GLYPHS)).long().where((has < 0.5) & (dots(shape, radius) >= 1), -1)
    present = torch.arange(max_objects, device=device) < 1 + (count * max_objects).long()
    shape, colour, bulk, glyph = (index.where(present, -1) for index in (shape, colour, bulk, glyph))
    return Objects(present, shape, colour, bulk, glyph, centre, radius)
