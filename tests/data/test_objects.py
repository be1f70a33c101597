from typing import Any

import pytest
import torch
from torch.testing import assert_close

from minitok.data.objects import Objects, place, uniform
from minitok.data.shapes import COLOURS, SHAPES, SIZES


def splitmix64(seed: int, count: int) -> list[int]:
    """The published algorithm (Steele, Lea and Flood 2014) in plain integers."""
    wrap, out = 2**64, []
    for _ in range(count):
        seed = (seed + 0x9E3779B97F4A7C15) % wrap
        z = ((seed ^ seed >> 30) * 0xBF58476D1CE4E5B9) % wrap
        z = ((z ^ z >> 27) * 0x94D049BB133111EB) % wrap
        out.append(z ^ z >> 31)
    return out


def equal(a: Objects, b: Objects) -> bool:
    return all(torch.equal(x, y) for x, y in zip(vars(a).values(), vars(b).values(), strict=True))


def test_numbers_are_those_of_splitmix64() -> None:
    # The first two outputs for seed 0, as published, pin the loop above.
    assert splitmix64(0, 2) == [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4]
    expected = [number >> 40 for number in splitmix64(0, 12)]
    assert (uniform(3, 4, 0, "cpu") * 2**24).flatten().tolist() == expected


def test_numbers_are_uniform_and_streams_differ() -> None:
    numbers = uniform(1000, 100, 7, "cpu")
    assert numbers.min() >= 0
    assert numbers.max() < 1
    # Chi-square with 99 degrees of freedom exceeds 187 with probability 2e-7.
    counts = torch.histc(numbers, 100, 0, 1)
    assert ((counts - 1000) ** 2 / 1000).sum() < 187
    # The correlation of two independent streams of 1e5 numbers has a deviation of 0.0032.
    pair = torch.stack([numbers.flatten(), uniform(1000, 100, 8, "cpu").flatten()])
    assert torch.corrcoef(pair)[0, 1].abs() < 0.016
    assert uniform(2, 2, 2**70 - 1, "cpu").equal(uniform(2, 2, -1, "cpu"))


def test_a_scene_depends_on_the_seed_and_its_number_only() -> None:
    assert equal(place(50, seed=3)[:20], place(20, seed=3))
    assert not equal(place(20, seed=3), place(20, seed=4))


def test_attributes_are_uniform() -> None:
    n = 12000
    objects = place(n, max_objects=4)
    there = objects.present
    for values, kinds in (
        (there.sum(1) - 1, 4),
        (objects.shape[there], len(SHAPES)),
        (objects.colour[there], len(COLOURS)),
        (objects.size[there], len(SIZES)),
        (objects.glyph[objects.glyph >= 0], 10),
    ):
        counts = torch.bincount(values, minlength=kinds).double()
        mean = len(values) / kinds
        # Chi-square with at most 9 degrees of freedom exceeds 46 with probability 6e-7.
        assert len(counts) == kinds
        assert ((counts - mean) ** 2 / mean).sum() < 46
    roomy = there & (objects.shape == 0) & (objects.size == 2)
    share = (objects.glyph[roomy] >= 0).double().mean()
    assert abs(share - 0.5) < 5 * 0.5 / roomy.sum() ** 0.5
    assert (objects.glyph[there & (objects.shape == SHAPES.index("ring"))] == -1).all()


def test_absent_objects_have_no_attributes() -> None:
    objects = place(200)
    for values in (objects.shape, objects.colour, objects.size, objects.glyph):
        assert (values[~objects.present] == -1).all()
    for values in (objects.shape, objects.colour, objects.size):
        assert (values[objects.present] >= 0).all()


@pytest.mark.parametrize(("size", "most", "cell"), [(64, 4, 32), (64, 1, 32), (24, 2, 12), (48, 9, 16), (90, 5, 30)])
def test_objects_lie_inside_in_cells_of_their_own(size: int, most: int, cell: int) -> None:
    objects = place(500, size=size, max_objects=most)
    assert objects.present.shape == (500, most)
    reach = 1.1 * objects.radius[..., None]
    assert (objects.centre - reach >= 0).all()
    assert (objects.centre + reach <= size).all()
    column, row = (objects.centre // cell).long().unbind(2)
    for scene in (row * (size // cell) + column).tolist():
        assert len(set(scene)) == most
    there = objects.present
    expected = torch.tensor([0.15, 0.27, 0.40])[objects.size[there]] * cell
    change = objects.radius[there] / expected - 1
    assert change.abs().max() <= 0.0601
    assert change.min() < -0.04
    assert change.max() > 0.04


def test_the_device_is_asked_for() -> None:
    # A GPU itself is tried in test_scenes.py, where there is one.
    with pytest.raises(RuntimeError, match="nowhere"):
        place(2, device="nowhere")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n": 0}, "n=0 is less than 1"),
        ({"n": 1, "size": 23}, "size=23 is too small for max_objects=4: it takes 24 or more"),
        (
            {"n": 1, "size": 35, "max_objects": 5},
            "size=35 is too small for max_objects=5: it takes 36 or more",
        ),
        ({"n": 1, "max_objects": 0}, r"max_objects=0 is not in 1\.\.9"),
        ({"n": 1, "max_objects": 10}, r"max_objects=10 is not in 1\.\.9"),
    ],
)
def test_bad_input_is_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        place(**arguments)


def test_a_slice_takes_the_same_scenes_of_all() -> None:
    objects = place(10)
    assert_close(objects[2:5].centre, objects.centre[2:5], rtol=0, atol=0)
    assert objects[2:5].present.shape == (3, 4)
