"""The words and forms that scenes are made of: eight shapes, eight colours, three sizes and ten digits.

A shape is a signed distance function of the plane: `x` to the right, `y` down, negative inside, zero on the
edge, and the object's radius as the unit of length. Near the edge it is the distance to it, so that half a
pixel on either side gives a smooth border at any size.
"""

import math
from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

Grid = Float[Tensor, "..."]


def _circle(x: Grid, y: Grid) -> Grid:
    return (x * x + y * y).sqrt() - 1


def _square(x: Grid, y: Grid) -> Grid:
    return torch.maximum(x.abs(), y.abs()) - 0.88


def _triangle(x: Grid, y: Grid) -> Grid:
    # The point is (0, -1), the lower corners are (-1, 0.75) and (1, 0.75).
    side = (1.75 * x.abs() - (y + 1)) / math.hypot(1.75, 1)
    return torch.maximum(side, y - 0.75)


def _diamond(x: Grid, y: Grid) -> Grid:
    return (x.abs() + y.abs() - 1.1) / math.sqrt(2)


def _ring(x: Grid, y: Grid) -> Grid:
    return (_circle(x, y) + 0.25).abs() - 0.25


def _cross(x: Grid, y: Grid) -> Grid:
    x, y = x.abs(), y.abs()
    return torch.maximum(torch.minimum(x, y) - 0.38, torch.maximum(x, y) - 1)


def _star(x: Grid, y: Grid) -> Grid:
    # Mirrors at 108 and 36 degrees from the top fold the five points onto the right half of the upper one.
    x, y = x.abs(), -y
    for degrees in (108, 36):
        across, along = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
        beyond = (x * across - y * along).clamp(min=0)
        x, y = x - 2 * across * beyond, y + 2 * along * beyond
    notch_x, notch_y = 0.55 * math.sin(math.pi / 5), 0.55 * math.cos(math.pi / 5)
    return (x.abs() * (1 - notch_y) + (y - 1) * notch_x) / math.hypot(1 - notch_y, notch_x)


def _heart(x: Grid, y: Grid) -> Grid:
    # A square on its corner with a disc on either upper side.
    x, half = x.abs(), 0.828
    point = (x + y.abs() - half) / math.sqrt(2)
    lobe = ((x - half / 2) ** 2 + (y + half / 2) ** 2).sqrt() - half / math.sqrt(2)
    return torch.minimum(point, lobe)


DISTANCES: dict[str, Callable[[Grid, Grid], Grid]] = {
    "circle": _circle,
    "square": _square,
    "triangle": _triangle,
    "diamond": _diamond,
    "ring": _ring,
    "cross": _cross,
    "star": _star,
    "heart": _heart,
}
SHAPES = tuple(DISTANCES)
# How wide one dot of a digit may be, and how far below the centre the digit stands, in radii of the object.
_DOT = {"circle": 0.19, "square": 0.19, "triangle": 0.125, "diamond": 0.175, "ring": 0}
_DOT |= {"cross": 0.13, "star": 0.125, "heart": 0.13}
_DROP = {"triangle": 0.17, "heart": -0.1}

# Pairs that a red-green blind reader could confuse differ in lightness.
COLOURS = {
    "red": (214, 40, 40),
    "orange": (255, 140, 26),
    "yellow": (252, 225, 80),
    "green": (38, 166, 91),
    "blue": (38, 96, 230),
    "purple": (130, 60, 185),
    "pink": (255, 165, 205),
    "white": (245, 245, 245),
}
# The radius of an object as a part of the width of its cell.
SIZES = {"small": 0.15, "medium": 0.27, "large": 0.40}
GLYPHS = tuple("0123456789")
_DOTS = """
.###. ..#.. .###. ##### ...#. ##### .###. ##### .###. .###.
#...# .##.. #...# ....# ..##. #.... #.... ....# #...# #...#
#...# ..#.. ....# ...#. .#.#. ####. #.... ...#. #...# #...#
#...# ..#.. ..##. ..##. #..#. ....# ####. ..#.. .###. .####
#...# ..#.. .#... ....# ##### ....# #...# ..#.. #...# ....#
#...# ..#.. #.... #...# ...#. #...# #...# ..#.. #...# ....#
.###. .###. ##### .###. ...#. .###. .###. ..#.. .###. .###.
"""


def bitmaps() -> Float[Tensor, "10 7 5"]:
    """The ten digits as 7 rows of 5 dots, 1 where there is ink.

    >>> bitmaps()[1].sum(1).tolist()
    [1.0, 2.0, 1.0, 1.0, 1.0, 1.0, 3.0]
    """
    rows = [[[float(dot == "#") for dot in word] for word in line.split()] for line in _DOTS.split("\n")[1:-1]]
    return torch.tensor(rows).transpose(0, 1)


def colours() -> Float[Tensor, "8 3"]:
    """`COLOURS` as red, green and blue in [0, 1], in the order of their indexes."""
    return torch.tensor(list(COLOURS.values())) / 255


def dots(shape: Int[Tensor, "*n"], radius: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    """The width in whole pixels of a digit's dots on an object of that shape and radius, 0 where none fits.

    >>> dots(torch.tensor([0, 0, 4]), torch.tensor([12.8, 4.8, 12.8]))  # circles have room, a ring has none
    tensor([2., 0., 0.])
    """
    widest = torch.tensor([_DOT[name] for name in SHAPES], device=radius.device)
    return (widest[shape] * radius).floor()


def drop(shape: Int[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    """How far below an object's centre the middle of its digit stands, in radii."""
    return torch.tensor([_DROP.get(name, 0.0) for name in SHAPES], device=shape.device)[shape]
