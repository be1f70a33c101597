import math
from dataclasses import fields, replace

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from minitok.data import scenes
from minitok.data.objects import Objects, Scenes
from minitok.data.shapes import COLOURS, SHAPES, SIZES, bitmaps, dots

RED = torch.tensor([214, 40, 40]) / 255
NOISE = torch.rand(40, 3, 64, 64, generator=torch.Generator().manual_seed(1))


def made(*rows: tuple[str, float, float, float, int]) -> Objects:
    """One scene of ("red circle", x, y, radius, digit or -1) from back to front; all are called large."""
    words = [row[0].split() for row in rows]
    return Objects(
        present=torch.ones(1, len(rows), dtype=torch.bool),
        shape=torch.tensor([[SHAPES.index(shape) for _, shape in words]]),
        colour=torch.tensor([[list(COLOURS).index(colour) for colour, _ in words]]),
        size=torch.full((1, len(rows)), 2),
        glyph=torch.tensor([[row[4] for row in rows]]),
        centre=torch.tensor([[row[1:3] for row in rows]]).float(),
        radius=torch.tensor([[row[3] for row in rows]]).float(),
    )


def drawn(*rows: tuple[str, float, float, float, int], background: Tensor | None = None) -> Scenes:
    return scenes.draw(made(*rows), torch.zeros(1, 3, 64, 64) if background is None else background)


def equal(a: Scenes, b: Scenes) -> bool:
    return all(torch.equal(x, y) for x, y in zip(vars(a).values(), vars(b).values(), strict=True))


def test_a_red_circle_is_red_and_round() -> None:
    scene = drawn(("red circle", 30.3, 33.8, 12, -1), background=NOISE[:1])
    mask = scene.masks[0, 0]
    assert mask.sum().item() == pytest.approx(math.pi * 12**2, rel=0.01)
    rows, columns = mask.nonzero().T
    assert_close((columns + 0.5).mean().item(), 30.3, rtol=0, atol=0.1)
    assert_close((rows + 0.5).mean().item(), 33.8, rtol=0, atol=0.1)
    inside = (rows + 0.5 - 33.8) ** 2 + (columns + 0.5 - 30.3) ** 2 < 11.5**2
    colours = scene.images[0, :, mask].T
    assert_close(colours[inside], RED.expand(int(inside.sum()), 3))
    assert_close(colours.mean(0), RED, rtol=0, atol=0.02)


def test_a_square_on_whole_pixels_is_exact() -> None:
    # Half a side is 0.88 radii: 11 pixels, from 9 to 31 across and from 21 to 43 down.
    scene = drawn(("red square", 20, 32, 12.5, -1), background=NOISE[:1])
    expected = torch.zeros(64, 64, dtype=torch.bool)
    expected[21:43, 9:31] = True
    assert scene.masks[0, 0].equal(expected)
    assert scene.boxes.tolist() == [[[9, 21, 31, 43]]]
    picture = torch.where(expected, RED[:, None, None], NOISE[0])
    assert_close(scene.images[0], picture, rtol=0, atol=1e-6)


def test_half_covered_pixels_are_half_blended() -> None:
    # Moved by a quarter pixel: three quarters of the column on the left, one quarter of that on the right.
    scene = drawn(("white square", 20.25, 32, 12.5, -1))
    assert_close(scene.images[0, 0, 32, [8, 9, 10, 30, 31, 32]], torch.tensor([0, 0.75, 1, 1, 0.25, 0]) * 245 / 255)
    assert scene.boxes.tolist() == [[[9, 21, 31, 43]]]


def test_outside_of_the_objects_is_background() -> None:
    scene = scenes.render(40, backgrounds=NOISE, seed=2)
    # The smooth border reaches one pixel past a mask, and two at the point of a star.
    near = torch.nn.functional.max_pool2d(scene.masks.any(1)[:, None].float(), 5, 1, 2)[:, 0].bool()
    picked = [
        [bool(torch.equal(image[:, far], noise[:, far])) for noise in NOISE]
        for image, far in zip(scene.images, ~near, strict=True)
    ]
    # Each scene lies over exactly one of the pictures, and not always the same.
    assert all(sum(row) == 1 for row in picked)
    assert len({row.index(True) for row in picked}) > 10


def test_a_box_holds_exactly_its_mask() -> None:
    scene = scenes.render(300, backgrounds=NOISE, max_objects=6)
    for i, slot in scene.present.nonzero().tolist():
        rows, columns = scene.masks[i, slot].nonzero().T
        expected = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        assert scene.boxes[i, slot].tolist() == [side.item() for side in expected]
    assert not scene.masks[~scene.present].any()
    assert not scene.boxes[~scene.present].any()


def test_the_later_object_hides_the_earlier() -> None:
    scene = drawn(("red circle", 26, 32, 12, -1), ("white square", 40, 32, 12.5, -1))
    alone = drawn(("red circle", 26, 32, 12, -1)).masks[0, 0]
    square = torch.zeros(64, 64, dtype=torch.bool)
    square[21:43, 29:51] = True
    assert scene.masks[0, 1].equal(square)
    assert scene.masks[0, 0].equal(alone & ~square)
    assert scene.boxes[0, 0].tolist() == [14, 20, 29, 44]
    assert_close(scene.images[0, :, 32, 35], torch.full((3,), 245 / 255))
    swapped = drawn(("white square", 40, 32, 12.5, -1), ("red circle", 26, 32, 12, -1))
    assert_close(swapped.images[0, :, 32, 35], RED)


def test_a_hidden_object_is_not_present() -> None:
    scene = drawn(("red circle", 32, 32, 5, -1), ("blue square", 32, 32, 14, -1), ("red star", 200, 32, 9, -1))
    assert scene.present.tolist() == [[False, True, False]]
    assert scene.boxes[0, 0].tolist() == [0, 0, 0, 0]
    assert scenes.captions(scene) == ["a large blue square"]


def test_masks_are_disjoint_and_every_placed_object_shows() -> None:
    for size, most in ((64, 4), (24, 4), (36, 9)):
        objects = scenes.place(600, size=size, max_objects=most)
        scene = scenes.draw(objects, torch.zeros(600, 3, size, size))
        assert scene.masks.sum(1).max() == 1
        assert scene.present.equal(objects.present)
        back = replace(objects, present=objects.present & (torch.arange(most) == 0))
        alone = scenes.draw(back, torch.zeros(600, 3, size, size)).masks[:, 0].flatten(1).sum(1)
        assert (scene.masks[:, 0].flatten(1).sum(1) >= 0.6 * alone).all()


@pytest.mark.parametrize("digit", range(10))
def test_a_digit_can_be_read_off_the_pixels(digit: int) -> None:
    scene = drawn(("red square", 32, 32, 12.5, digit))
    # Dots are two pixels wide: 10 x 14 pixels around (32, 32), white on red.
    ink = scene.images[0, 1, 25:39, 27:37]
    assert_close(
        ink,
        torch.where(bitmaps()[digit].bool(), 1.0, 40 / 255).repeat_interleave(2, 0).repeat_interleave(2, 1),
    )
    assert scene.masks.equal(drawn(("red square", 32, 32, 12.5, -1)).masks)


def test_a_digit_stands_where_its_shape_has_room() -> None:
    # 0.17 radii below the centre of a triangle, 0.1 above that of a heart: around rows 34.55 and 30.5.
    for shape, rows in (("triangle", range(31, 38)), ("heart", range(27, 34))):
        ink = drawn((f"red {shape}", 32, 32, 15, 1)).images[0, 1] == 1
        assert ink.any(1).nonzero()[:, 0].tolist() == list(rows)
        assert ink.sum(1)[list(rows)].tolist() == [1, 2, 1, 1, 1, 1, 3]


def test_ink_is_dark_on_light_colours() -> None:
    light = {colour: drawn((f"{colour} circle", 32, 32, 12, 1)).images[0, :, 32, 32] for colour in COLOURS}
    black = {colour for colour, ink in light.items() if ink.sum() == 0}
    assert black == {"orange", "yellow", "pink", "white"}
    assert all(ink.sum() == 3 for colour, ink in light.items() if colour not in black)


def test_no_digit_is_hidden_or_leaves_its_object() -> None:
    scene = scenes.render(500, backgrounds=torch.full((1, 3, 64, 64), 0.5), max_objects=5)
    without = replace(scene, glyph=torch.full_like(scene.glyph, -1))
    bare = scenes.draw(without, torch.full((500, 3, 64, 64), 0.5))
    changed = (scene.images != bare.images).any(1)
    with_digit = scene.glyph >= 0
    digit, dot = scene.glyph[with_digit], dots(scene.shape[with_digit], scene.radius[with_digit])
    ink = (changed[:, None] & scene.masks).flatten(2).sum(2)
    assert not ink[~with_digit].any()
    assert_close(ink[with_digit].float(), bitmaps().sum((1, 2))[digit] * dot**2, rtol=0, atol=0)


def test_seed_and_number_settle_a_scene() -> None:
    first = scenes.render(30, backgrounds=NOISE, seed=5)
    assert equal(first, scenes.render(30, backgrounds=NOISE, seed=5))
    assert equal(first[:7], scenes.render(7, backgrounds=NOISE, seed=5))
    other = scenes.render(30, backgrounds=NOISE, seed=6)
    assert (first.images != other.images).flatten(1).any(1).all()
    assert not first.present.equal(other.present)
    # No object reaches the corner pixel, which shows that the backgrounds differ too.
    assert (first.images[:, 0, 0, 0] != other.images[:, 0, 0, 0]).sum() > 20


def test_chunks_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = scenes.render(9, backgrounds=NOISE)
    monkeypatch.setattr(scenes, "STEP", 2 * 4 * 64 * 64)
    assert equal(whole, scenes.render(9, backgrounds=NOISE))


def test_sizes_and_numbers_of_objects() -> None:
    scene = scenes.render(50, size=96, max_objects=9, backgrounds=torch.zeros(1, 3, 96, 96))
    assert scene.images.shape == (50, 3, 96, 96)
    assert scene.masks.shape == (50, 9, 96, 96)
    assert set(scene.present.sum(1).tolist()) == set(range(1, 10))
    assert scene.images.dtype == scene.boxes.dtype == torch.float32
    tall = scenes.draw(made(("red circle", 20, 80, 9, -1)), torch.zeros(1, 3, 100, 40))
    assert tall.boxes.tolist() == [[[11, 71, 29, 89]]]


def test_photographs_are_the_default_background_and_dim() -> None:
    scene = scenes.render(64, size=48, device=torch.device("cpu"))
    outside = ~scene.masks.any(1)[:, None].expand_as(scene.images)
    assert scene.images.min() >= 0
    assert scene.images[outside].quantile(0.9) <= 0.6
    # Photographs vary, within a picture and between pictures.
    assert scene.images.flatten(1).std(1).min() > 0.01
    assert scenes.render(1, size=48, device="cpu").images.equal(scene.images[:1])


def test_drawing_leaves_the_backgrounds_alone() -> None:
    pictures = NOISE.clone()
    scenes.draw(scenes.place(40), pictures)
    assert pictures.equal(NOISE)


def test_moving_the_centre_moves_the_picture() -> None:
    objects = made(("red star", 20, 30, 9, 4), ("blue heart", 44, 40, 9, -1))
    shifted = replace(objects, centre=objects.centre + torch.tensor([5, -3]))
    a, b = (scenes.draw(which, torch.zeros(1, 3, 64, 64)) for which in (objects, shifted))
    assert_close(a.images.roll((-3, 5), (2, 3)), b.images, rtol=0, atol=1e-5)
    assert_close(b.boxes - a.boxes, torch.tensor([5.0, -3, 5, -3]).expand(1, 2, 4))


@pytest.mark.parametrize(
    ("rows", "caption"),
    [
        ([("red circle", 20, 30, 9, -1)], "a large red circle"),
        (
            [("red circle", 50, 30, 13, 7), ("blue square", 10, 35, 9, -1)],
            "a large blue square left of a large red circle with the digit 7",
        ),
        (
            [("red circle", 20, 50, 9, -1), ("blue square", 30, 12, 9, -1)],
            "a large blue square above a large red circle",
        ),
        (
            [("pink cross", 50, 30, 9, -1), ("pink cross", 20, 30, 9, -1)],
            "a large pink cross left of another",
        ),
        (
            [("red heart", 10, 10, 9, 3), ("red heart", 10, 40, 9, 3)],
            "a large red heart with the digit 3 above another",
        ),
        (
            [("red heart", 10, 10, 9, 3), ("red heart", 10, 40, 9, 4)],
            "a large red heart with the digit 3 above a large red heart with the digit 4",
        ),
        (
            [("green cross", 50, 30, 9, -1), ("red ring", 30, 12, 9, -1), ("green cross", 10, 50, 9, -1)],
            "two large green crosses and a large red ring",
        ),
        (
            [
                ("green star", 50, 30, 9, 2),
                ("red ring", 10, 12, 9, -1),
                ("green star", 30, 50, 9, 2),
                ("blue star", 52, 10, 9, -1),
            ],
            "a large red ring, two large green stars with the digit 2 on each and a large blue star",
        ),
    ],
)
def test_captions(rows: list[tuple[str, float, float, float, int]], caption: str) -> None:
    assert scenes.captions(drawn(*rows)) == [caption]


def test_captions_name_sizes_and_an_empty_scene() -> None:
    objects = made(("red circle", 20, 30, 9, -1))
    for index, size in enumerate(SIZES):
        named = replace(objects, size=torch.tensor([[index]]))
        assert scenes.captions(scenes.draw(named, NOISE[:1])) == [f"a {size} red circle"]
    nothing = replace(objects, present=torch.tensor([[False]]))
    assert scenes.captions(scenes.draw(nothing, NOISE[:1])) == ["nothing"]


def test_captions_hold_every_object_once() -> None:
    numbers = ["a", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
    scene = scenes.render(300, max_objects=9, size=64, backgrounds=NOISE)
    for i, caption in enumerate(scenes.captions(scene)):
        count = sum(numbers.index(word) + 1 for word in caption.split() if word in numbers)
        count += "another" in caption
        assert count == scene.present[i].sum()
        for slot in scene.present[i].nonzero()[:, 0].tolist():
            size, colour = list(SIZES)[scene.size[i, slot]], list(COLOURS)[scene.colour[i, slot]]
            assert f" {size} {colour} {SHAPES[scene.shape[i, slot]]}" in caption


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"shape": 8}, r"objects.shape holds \[8\], beyond 0..7"),
        ({"colour": -1}, r"objects.colour holds \[-1\], beyond 0..7"),
        ({"size": 3}, r"objects.size holds \[3\], beyond 0..2"),
        ({"glyph": 10}, r"objects.glyph holds \[10\], beyond -1..9"),
        ({"radius": 0.0}, "objects.radius holds 0, expected more than 0"),
        ({"radius": 4.0, "glyph": 3}, "no room"),
    ],
)
def test_bad_objects_are_named(change: dict[str, float], message: str) -> None:
    objects = made(("red circle", 20, 30, 9, -1))
    objects = replace(objects, **{name: torch.tensor([[value]]) for name, value in change.items()})
    with pytest.raises(ValueError, match=message):
        scenes.draw(objects, NOISE[:1])
    absent = replace(objects, present=torch.tensor([[False]]))
    assert scenes.draw(absent, NOISE[:1]).images.equal(NOISE[:1])


def test_bad_backgrounds_are_named() -> None:
    with pytest.raises(ValueError, match=r"2 backgrounds for objects.present of shape \(1, 1\)"):
        scenes.draw(made(("red circle", 20, 30, 9, -1)), NOISE[:2])
    for bad in (NOISE[:, :, :32], NOISE[:0]):
        with pytest.raises(ValueError, match="expected k > 0 pictures of 3 x 64 x 64"):
            scenes.render(1, backgrounds=bad)
    with pytest.raises(ValueError, match="n=0 is less than 1"):
        scenes.render(0, backgrounds=NOISE)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_draws_the_same_scenes() -> None:
    here = scenes.render(200, max_objects=6, backgrounds=NOISE)
    there = scenes.render(200, max_objects=6, backgrounds=NOISE, device="cuda")
    assert there.images.is_cuda
    for name in (field.name for field in fields(Objects)):
        assert getattr(there, name).cpu().equal(getattr(here, name)), name
    assert_close(there.images.cpu(), here.images, rtol=0, atol=1e-3)
    assert (there.masks.cpu() != here.masks).sum() < 20
