"""Scenes with known contents: coloured shapes, some with a digit on them, over crops of real photographs.

What: pictures with each object's shape, colour, size, digit, centre, mask and box, and an exact caption.
How many: as many as you ask for, at any size; their objects are the same on every device.
Licence: ours, like the rest of the project; the photographs' own terms stand in `minitok.data.photographs`.
"""

from collections import Counter
from dataclasses import fields
from functools import lru_cache

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from minitok.data import photographs
from minitok.data.objects import Objects, Scenes, place, uniform
from minitok.data.shapes import COLOURS, DISTANCES, GLYPHS, SHAPES, SIZES, bitmaps, colours, dots, drop

# How many values of coverage are held at once.
STEP = 2**23
_NUMBERS = {1: "a", 2: "two", 3: "three", 4: "four", 5: "five", 6: "six", 7: "seven", 8: "eight", 9: "nine"}


def _coverage(objects: Objects, height: int, width: int) -> Float[Tensor, "n m H W"]:
    device = objects.radius.device
    cover = torch.zeros(*objects.radius.shape, height, width, device=device)
    columns = torch.arange(width, device=device) + 0.5
    rows = torch.arange(height, device=device)[:, None] + 0.5
    for index, distance in enumerate(DISTANCES.values()):
        which = (objects.present & (objects.shape == index)).nonzero(as_tuple=True)
        radius = objects.radius[which][:, None, None]
        x, y = objects.centre[which][:, :, None, None].unbind(1)
        inside = -distance((columns - x) / radius, (rows - y) / radius)
        cover[which] = inside.mul_(radius).add_(0.5).clamp_(0, 1)
    return cover


def _steps(start: Float[Tensor, "k 1"], dot: Float[Tensor, "k 1"], pixels: int) -> Int64[Tensor, "k w"]:
    # Dots are whole pixels wide and start on a whole pixel, so that digits stay crisp; the first is number 1.
    # Halves go up, not to the even pixel, so that a digit moves with its object.
    first = (start + 0.5).floor()
    return ((torch.arange(pixels, device=dot.device) - first) / dot).floor().long() + 1


def _ink(
    objects: Objects, which: tuple[Int64[Tensor, " k"], Int64[Tensor, " k"]], height: int, width: int
) -> Bool[Tensor, "k H W"]:
    shape, radius, (x, y) = objects.shape[which], objects.radius[which], objects.centre[which].T
    dot = dots(shape, radius)[:, None]
    # A blank border around each digit stands for all other pixels.
    digits = F.pad(bitmaps().bool(), (1, 1, 1, 1)).to(dot.device)
    column = _steps(x[:, None] - 2.5 * dot, dot, width).clamp(0, 6)
    row = _steps((y + drop(shape) * radius)[:, None] - 3.5 * dot, dot, height).clamp(0, 8)
    return digits[objects.glyph[which][:, None, None], row[:, :, None], column[:, None, :]]


def _paint(images: Float[Tensor, "n 3 H W"], objects: Objects, cover: Float[Tensor, "n m H W"]) -> None:
    palette = colours().to(images.device)
    # Ink is black on light colours and white on dark ones.
    light = palette @ torch.tensor([0.299, 0.587, 0.114], device=images.device)
    inks = (light < 0.6).float()
    for slot in range(cover.shape[1]):
        colour = objects.colour[:, slot].clamp(min=0)
        images.lerp_(palette[colour][:, :, None, None].expand_as(images), cover[:, slot, None])
        scene = (objects.present[:, slot] & (objects.glyph[:, slot] >= 0)).nonzero()[:, 0]
        ink = _ink(objects, (scene, torch.full_like(scene, slot)), *images.shape[2:])
        tone = inks[colour[scene]][:, None, None, None]
        images[scene] = images[scene].where(~ink[:, None], tone)


def _visible(cover: Float[Tensor, "n m H W"]) -> Bool[Tensor, "n m H W"]:
    masks = cover >= 0.5
    front = torch.zeros_like(masks[:, 0])
    for slot in reversed(range(masks.shape[1])):
        mask = masks[:, slot].clone()
        masks[:, slot] &= ~front
        front |= mask
    return masks


def _boxes(masks: Bool[Tensor, "n m H W"]) -> Float[Tensor, "n m 4"]:
    sides = []
    for line in (masks.any(2).byte(), masks.any(3).byte()):
        sides.append((line.argmax(2), (line.shape[2] - line.flip(2).argmax(2)) * line.amax(2)))
    (left, right), (top, bottom) = sides
    return torch.stack([left, top, right, bottom], 2).float()


def _check(objects: Objects, backgrounds: Tensor) -> None:
    there, ends = objects.present, {"shape": SHAPES, "colour": COLOURS, "size": SIZES, "glyph": GLYPHS}
    if len(backgrounds) != len(there) or not there.numel():
        raise ValueError(f"{len(backgrounds)} backgrounds for objects.present of shape {tuple(there.shape)}")
    for name, words in ends.items():
        values, least = getattr(objects, name)[there], -1 if name == "glyph" else 0
        if ((values < least) | (values >= len(words))).any():
            raise ValueError(f"objects.{name} holds {values.unique().tolist()}, beyond {least}..{len(words) - 1}")
    shape, radius, glyph = objects.shape[there], objects.radius[there], objects.glyph[there]
    if (radius <= 0).any():
        raise ValueError(f"objects.radius holds {radius.min().item():g}, expected more than 0")
    if ((glyph >= 0) & (dots(shape, radius) < 1)).any():
        raise ValueError("objects.glyph holds a digit on an object that has no room for one: see shapes.dots")


def draw(objects: Objects, backgrounds: Float[Tensor, "n 3 H W"]) -> Scenes:
    """Draws scene i over picture i of `backgrounds`, pictures of any height and width in [0, 1]."""
    _check(objects, backgrounds)
    n, m = objects.present.shape
    height, width = backgrounds.shape[2:]
    images = backgrounds.to(torch.float32, copy=True)
    masks = torch.empty(n, m, height, width, dtype=torch.bool, device=images.device)
    step = max(1, STEP // (m * height * width))
    for start in range(0, n, step):
        rows = slice(start, start + step)
        cover = _coverage(objects[rows], height, width)
        _paint(images[rows], objects[rows], cover)
        masks[rows] = _visible(cover)
    boxes = _boxes(masks)
    named = {field.name: getattr(objects, field.name) for field in fields(Objects)}
    return Scenes(**named | {"present": boxes[..., 2] > 0}, images=images, masks=masks, boxes=boxes)


@lru_cache(maxsize=4)
def dim_photographs(size: int, device: str | torch.device) -> Float[Tensor, "n 3 H W"]:
    """The backgrounds that scenes and clips are given: blurred, dim and half gray crops of photographs."""
    crops = photographs.crops(min(2048, 2**23 // size**2), size)
    blurred = F.avg_pool2d(F.pad(crops, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    # Dim and half gray, so that every colour of an object stands out.
    return (0.1 + 0.25 * blurred + 0.25 * blurred.mean(1, keepdim=True)).to(device)


def render(
    n: int,
    *,
    size: int = 64,
    seed: int = 0,
    max_objects: int = 4,
    backgrounds: Float[Tensor, "k 3 H W"] | None = None,
    device: str | torch.device = "cpu",
) -> Scenes:
    """Places and draws n scenes of `size` x `size` pixels, each over one of `backgrounds`, picked at random.

    Your own backgrounds, in [0, 1], are used as they are. None takes crops of photographs, blurred and
    dimmed: 2,048 of them at 64 pixels, fewer at larger sizes, of which 300 is the largest; the first call for
    a size makes them. Scene i depends on `seed`, i, `size`, `max_objects` and the backgrounds, not on n.
    """
    objects = place(n, size=size, seed=seed, max_objects=max_objects, device=device)
    bank = dim_photographs(size, device) if backgrounds is None else backgrounds.to(device)
    if bank.shape[2:] != (size, size) or not len(bank):
        raise ValueError(f"backgrounds of shape {tuple(bank.shape)}, expected k > 0 pictures of 3 x {size} x {size}")
    pick = (uniform(n, 1, 2 * seed + 1, device)[:, 0] * len(bank)).long()
    return draw(objects, bank[pick])


def _phrase(kind: tuple[int, int, int, int], count: int) -> str:
    size, colour, shape, glyph = kind
    name = SHAPES[shape] if count == 1 else SHAPES[shape] + ("es" if SHAPES[shape].endswith("s") else "s")
    digit = "" if glyph < 0 else f" with the digit {glyph}" + (" on each" if count > 1 else "")
    return f"{_NUMBERS.get(count, count)} {tuple(SIZES)[size]} {tuple(COLOURS)[colour]} {name}{digit}"


def _caption(kinds: list[tuple[int, int, int, int]], centres: list[tuple[float, float]]) -> str:
    if len(kinds) == 2:
        across, down = abs(centres[0][0] - centres[1][0]), abs(centres[0][1] - centres[1][1])
        axis, relation = (0, "left of") if across >= down else (1, "above")
        first, second = sorted((0, 1), key=lambda i: centres[i][axis])
        other = "another" if kinds[0] == kinds[1] else _phrase(kinds[second], 1)
        return f"{_phrase(kinds[first], 1)} {relation} {other}"
    order = sorted(range(len(kinds)), key=lambda i: centres[i])
    phrases = [_phrase(kind, count) for kind, count in Counter(kinds[i] for i in order).items()]
    return " and ".join(filter(None, [", ".join(phrases[:-1]), *phrases[-1:]])) or "nothing"


def captions(scenes: Scenes) -> list[str]:
    """One exact caption a scene: "a small red circle with the digit 7 left of a large blue square".

    Two objects are related along the axis in which their boxes' centres lie farther apart (across on a tie).
    Other numbers are listed and counted, in the order of each kind's leftmost box centre.
    """
    kinds = torch.stack([scenes.size, scenes.colour, scenes.shape, scenes.glyph], 2).tolist()
    centres = ((scenes.boxes[..., :2] + scenes.boxes[..., 2:]) / 2).tolist()
    slots = [[slot for slot, there in enumerate(row) if there] for row in scenes.present.tolist()]
    return [
        _caption([tuple(kind[slot]) for slot in row], [tuple(centre[slot]) for slot in row])
        for kind, centre, row in zip(kinds, centres, slots, strict=True)
    ]
