import itertools
import math

import pytest
import torch
from torch.testing import assert_close

from minitok.data import shapes

# Areas in squared radii, by elementary geometry. A five-pointed star is ten triangles with a corner at its
# centre; the heart is a square of diagonal 2 x 0.828 with half a disc on either upper side.
AREAS = {
    "circle": math.pi,
    "square": 1.76**2,
    "triangle": 2 * 1.75 / 2,
    "diamond": 2 * 1.1**2,
    "ring": math.pi * (1 - 0.5**2),
    "cross": 2 * 2 * 0.76 - 0.76**2,
    "star": 10 * 0.5 * 0.55 * math.sin(math.pi / 5),
    "heart": 2 * 0.828**2 + math.pi * (0.828 / math.sqrt(2)) ** 2,
}
# Points just inside and just outside of an edge or corner, as (x, y) with y down.
EDGES = {
    "circle": [((0.7, -0.7), (0.72, -0.72))],
    "square": [((0.87, 0.87), (0.89, 0)), ((0, -0.87), (0, -0.89))],
    "triangle": [((0, -0.98), (0.05, -0.98)), ((0.95, 0.74), (0, 0.76))],
    "diamond": [((1.09, 0), (0.6, 0.6)), ((0, -1.09), (0, -1.11))],
    "ring": [((0.51, 0), (0.49, 0)), ((0, 0.99), (0, 1.01))],
    "cross": [((0.99, 0.37), (0.39, 0.39)), ((0.37, -0.99), (1.01, 0))],
    "star": [((0, -0.99), (0, 0.56)), ((0.94, -0.307), (-0.54, 0.175)), ((-0.58, 0.8), (0, 1))],
    "heart": [((0, 0.82), (0, 0.84)), ((0, -0.82), (0, -0.84)), ((-0.41, -0.99), (0, -0.95))],
}


def grid(points: int) -> tuple[torch.Tensor, torch.Tensor]:
    line = (torch.arange(points) + 0.5) / points * 2.4 - 1.2
    return line, line[:, None]


@pytest.mark.parametrize("name", shapes.SHAPES)
def test_area_is_the_geometry_books(name: str) -> None:
    inside = shapes.DISTANCES[name](*grid(600)) < 0
    assert_close(inside.float().mean().item() * 2.4**2, AREAS[name], rtol=0.003, atol=0)


@pytest.mark.parametrize("name", shapes.SHAPES)
def test_edges_are_where_the_drawing_says(name: str) -> None:
    for inner, outer in EDGES[name]:
        signs = [shapes.DISTANCES[name](*torch.tensor(point).float()).sign().item() for point in (inner, outer)]
        assert signs == [-1, 1]


@pytest.mark.parametrize("name", shapes.SHAPES)
def test_value_is_the_distance_near_the_edge(name: str) -> None:
    x, y = (t.expand(400, 400).clone().requires_grad_() for t in grid(400))
    value = shapes.DISTANCES[name](x, y)
    slopes = torch.hypot(*torch.autograd.grad(value.sum(), (x, y)))
    assert_close(slopes[value.abs() < 0.05].median().item(), 1.0, rtol=0, atol=1e-3)


def test_all_but_the_pointed_are_symmetric_and_all_mirror() -> None:
    x, y = grid(100)
    for name, distance in shapes.DISTANCES.items():
        assert_close(distance(x, y), distance(-x, y), rtol=0, atol=1e-6)
        upright = name in ("triangle", "star", "heart")
        assert torch.allclose(distance(x, y), distance(x, -y), rtol=0, atol=1e-6) != upright


def test_any_two_shapes_differ_by_a_seventh_of_the_smaller() -> None:
    inside = {name: distance(*grid(200)) < 0 for name, distance in shapes.DISTANCES.items()}
    for a, b in itertools.combinations(shapes.SHAPES, 2):
        smaller = min(inside[a].sum(), inside[b].sum())
        assert (inside[a] ^ inside[b]).sum() > smaller / 7, (a, b)


def test_digits_are_distinct_and_look_right() -> None:
    digits = shapes.bitmaps()
    assert "".join(".#"[int(dot)] for dot in digits[7].flatten()) == (
        "#####" "....#" "...#." "..#.." "..#.." "..#.." "..#.."
    )  # fmt: skip
    for a, b in itertools.combinations(range(10), 2):
        assert (digits[a] != digits[b]).sum() >= 3, (a, b)
    # Upside down 6 is 9; 0 and 8 are their own mirror images.
    assert_close(digits[6].flip(0, 1)[1:6], digits[9][1:6], rtol=0, atol=0)
    for number in (0, 8):
        assert_close(digits[number].flip(1), digits[number], rtol=0, atol=0)


def test_a_digit_fits_inside_its_shape() -> None:
    radius = torch.arange(4, 60, 0.25)
    for index, name in enumerate(shapes.SHAPES):
        kind = torch.full(radius.shape, index)
        dot, drop = shapes.dots(kind, radius), shapes.drop(kind) * radius
        assert (dot == 0).all() if name == "ring" else dot[radius > 40].min() >= 5
        # The outermost dots' middles of a digit that was moved half a pixel to stand on whole pixels.
        for across, down in itertools.product((-1, 1), (-1, 1)):
            x, y = across * (2 * dot + 0.5), down * (3 * dot + 0.5) + drop
            distance = shapes.DISTANCES[name](x / radius, y / radius)
            assert (distance[dot > 0] < 0).all(), name


def test_colours_stay_apart_for_red_green_blind_readers() -> None:
    colours = shapes.colours()
    assert_close(colours[list(shapes.COLOURS).index("blue")], torch.tensor([38, 96, 230]) / 255)
    # Deuteranopia after Machado, Oliveira and Fernandes (2009), table 1, full severity, on linear light.
    linear = torch.where(colours <= 0.04045, colours / 12.92, ((colours + 0.055) / 1.055) ** 2.4)
    blind = torch.tensor(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
    )
    seen = (linear @ blind.T).clamp(0, 1) ** (1 / 2.4)
    assert torch.nn.functional.pdist(colours).min() > 0.3
    assert torch.nn.functional.pdist(seen).min() > 0.1
