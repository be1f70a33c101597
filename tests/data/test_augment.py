import math

import pytest
import torch

from minitok.data.augment import affine, erase, recolour


def windows(b=200, **settings):
    """The window of each image as a matrix (b, 2, 2) and a centre (b, 2), in half widths.

    Images hold their own coordinates, x in the first channel and y in the second: a value says where it was sampled.
    """
    at = (torch.arange(65) + 0.5) / 65
    image = torch.stack([at.expand(65, 65), at[:, None].expand(65, 65)])
    seen = affine(image.expand(b, 2, 65, 65), **settings)[:, :, 31:34, 31:34] * 2 - 1
    across, down = (seen[:, :, 1, 2] - seen[:, :, 1, 0]) * 65 / 4, (seen[:, :, 2, 1] - seen[:, :, 0, 1]) * 65 / 4
    return torch.stack([across, down], dim=-1), seen[:, :, 1, 1]


def test_without_settings_images_stay_as_they_are():
    images = torch.rand(3, 2, 9, 12)
    torch.testing.assert_close(affine(images), images, rtol=0, atol=1e-5)
    images = torch.rand(3, 3, 9, 12)
    torch.testing.assert_close(recolour(images, 0.0), images, rtol=0, atol=1e-6)
    assert torch.equal(erase(images, 0.0), images)


@pytest.mark.parametrize("zoom", [(0.25, 0.5), (0.8, 0.8), (0.5, 1.0)])
def test_zoom_is_the_width_of_the_window_which_stays_inside(zoom):
    matrix, centre = windows(zoom=zoom)
    width = matrix[:, 0, 0]
    assert width.min() > zoom[0] - 1e-3
    assert width.max() < zoom[1] + 1e-3
    torch.testing.assert_close(matrix, width[:, None, None] * torch.eye(2), rtol=0, atol=1e-3)
    room = (1 - width)[:, None] + 1e-3
    assert (centre.abs() <= room).all()
    assert (centre.abs() / room).max() > 0.9
    if zoom[0] < zoom[1]:
        assert width.log().mean().item() == pytest.approx(math.log(zoom[0] * zoom[1]) / 2, abs=0.1)


def test_a_window_may_be_larger_than_the_image_and_repeats_its_border():
    matrix, centre = windows(zoom=(2.0, 2.0))
    torch.testing.assert_close(matrix, 2 * torch.eye(2).expand(200, 2, 2), rtol=0, atol=1e-3)
    assert centre.abs().max() < 1e-3
    seen = affine(torch.arange(4.0).expand(1, 1, 4, 4) / 3, zoom=(2.0, 2.0))
    torch.testing.assert_close(seen[0, 0, 1], torch.tensor([0.0, 0.5, 2.5, 3.0]) / 3)


@pytest.mark.parametrize("degrees", [10.0, 45.0])
@pytest.mark.parametrize("flip", [False, True])
def test_degrees_turn_the_window_without_shear(degrees, flip):
    matrix, centre = windows(degrees=degrees, flip=flip)
    side = torch.linalg.det(matrix).sign()
    assert (side < 0).any() == flip
    angle = torch.atan2(-matrix[:, 0, 1], matrix[:, 1, 1]) * 180 / math.pi
    assert angle.abs().max() <= degrees + 0.1
    assert angle.min() < -0.9 * degrees
    assert angle.max() > 0.9 * degrees
    torch.testing.assert_close(matrix.mT @ matrix, torch.eye(2).expand(200, 2, 2), rtol=0, atol=1e-3)
    assert centre.abs().max() < 1e-3


def test_shift_moves_the_window_both_ways():
    matrix, centre = windows(shift=0.3)
    torch.testing.assert_close(matrix, torch.eye(2).expand(200, 2, 2), rtol=0, atol=1e-3)
    assert centre.abs().max() <= 0.301
    assert (centre.amin(0) < -0.25).all()
    assert (centre.amax(0) > 0.25).all()
    assert (centre[:, 0] - centre[:, 1]).abs().max() > 0.1


def test_squeeze_changes_the_sides_ratio_and_keeps_the_area():
    matrix, _ = windows(squeeze=1.5)
    ratio = matrix[:, 0, 0] / matrix[:, 1, 1]
    assert ratio.max() < 1.501
    assert ratio.min() > 1 / 1.501
    assert ratio.max() > 1.4
    assert ratio.min() < 1 / 1.4
    torch.testing.assert_close(torch.linalg.det(matrix), torch.ones(200), rtol=0, atol=1e-3)


def test_flip_mirrors_half_of_the_images():
    images = torch.rand(200, 1, 5, 6)
    seen = affine(images, flip=True)
    same = (seen - images).abs().amax((1, 2, 3)) < 1e-5
    mirrored = (seen - images.flip(-1)).abs().amax((1, 2, 3)) < 1e-5
    assert (same ^ mirrored).all()
    assert 60 < int(mirrored.sum()) < 140  # 100 +- 5.6 standard deviations


VIEWS = {
    "affine": lambda x: affine(x, zoom=(0.5, 1.5), degrees=30.0, shift=0.2, flip=True, squeeze=1.5),
    "recolour": lambda x: recolour(x, 1.0),
    "erase": lambda x: erase(x, 0.5),
}


@pytest.mark.parametrize("name", VIEWS)
def test_views_are_those_of_the_seed_and_stay_images(name):
    images, view = torch.rand(16, 3, 12, 12), VIEWS[name]
    seen = [torch.manual_seed(seed) and view(images) for seed in (1, 1, 2)]
    assert torch.equal(seen[0], seen[1])
    assert (seen[0] != seen[2]).any()
    for x in seen:
        assert x.shape == images.shape
        assert x.min() >= -1e-6
        assert x.max() <= 1 + 1e-6
    one_image_many_times = view(images[:1].expand(16, 3, 12, 12))
    assert len({tuple(x.flatten().tolist()) for x in one_image_many_times}) > 1


@pytest.mark.parametrize("strength", [0.1, 0.3])
def test_recolour_changes_brightness_contrast_saturation_and_tint(strength):
    b = 300
    # Nothing near 0 or 1, so that nothing is cut off.
    image = torch.rand(3, 8, 8, dtype=torch.float64) * 0.2 + torch.tensor([0.3, 0.4, 0.35])[:, None, None]
    seen = recolour(image.float().expand(b, 3, 8, 8), strength).double().flatten(2)
    grey, mean = image.mean(0).flatten(), image.mean()
    gains = []
    for channel in range(3):  # each is a (x - grey) + b grey + c, with tint in all three
        terms = torch.stack([image[channel].flatten() - grey, grey, torch.ones(64)], dim=1)
        solved = torch.linalg.lstsq(terms, seen[:, channel].T).solution
        torch.testing.assert_close(terms @ solved, seen[:, channel].T, rtol=0, atol=1e-5)
        gains.append(solved)
    a, level, rest = torch.stack(gains, dim=1)  # each (channel, image)
    saturation, shift = a / level, rest / level / mean  # the second is brightness / contrast - 1
    for same_in_all_channels in (saturation, shift):
        torch.testing.assert_close(same_in_all_channels, same_in_all_channels[:1].expand(3, b), rtol=0, atol=1e-2)
    tint = 3 * level / level.sum(0)  # that of one channel beside the others
    assert within(saturation, 1 - strength, 1 + strength)
    assert within(shift + 1, (1 - strength) / (1 + strength), (1 + strength) / (1 - strength))
    assert within(tint, (1 - strength / 2) / (1 + strength / 6), (1 + strength / 2) / (1 - strength / 6))
    assert within(level, (1 - strength) * (1 - strength / 2), (1 + strength) * (1 + strength / 2))


def within(x, low, high):
    """Whether numbers lie in a range and use a good part of it on both sides of its middle."""
    inside = x.min() > low - 0.01 and x.max() < high + 0.01
    return bool(inside and x.min() < 0.5 * low + 0.5 and x.max() > 0.5 * high + 0.5)


@pytest.mark.parametrize("share", [0.25, 0.5])
@pytest.mark.parametrize("size", [(16, 16), (11, 11)])
def test_erase_paints_one_square_in_half_of_the_images(share, size):
    images = torch.rand(200, 3, *size) + 2  # paint is below 1
    seen = erase(images, share)
    painted = (seen != images).all(1)
    hit = painted.any(-1).any(-1)
    assert 60 < int(hit.sum()) < 140
    places = set()
    for x, mask in zip(seen[hit], painted[hit], strict=True):
        rows, columns = mask.any(1).nonzero()[:, 0], mask.any(0).nonzero()[:, 0]
        assert mask.sum() == len(rows) * len(columns)  # a rectangle
        for side, whole in ((rows, size[0]), (columns, size[1])):
            assert len(side) == side[-1] - side[0] + 1
            assert abs(len(side) - share * whole) < 1
        assert x[:, mask].unique().numel() == 1
        places.add((int(rows[0]), int(columns[0])))
    assert len(places) > 10
    assert {row for row, _ in places} >= {0, 1, 2}
    assert (seen != images).any(1).equal(painted)


def test_erase_may_paint_all():
    seen = erase(torch.full((50, 1, 4, 4), 2.0), 1.0)
    assert {len(x.unique()) for x in seen} == {1}
    assert (seen < 1).any()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: affine(x, zoom=(0.0, 1.0)), r"zoom=\(0.0, 1.0\) came"),
        (lambda x: affine(x, zoom=(1.0, 0.5)), r"zoom=\(1.0, 0.5\) came"),
        (lambda x: affine(x, degrees=-1.0), "degrees=-1.0"),
        (lambda x: affine(x, degrees=math.nan), "degrees=nan"),
        (lambda x: affine(x, shift=math.inf), "shift=inf"),
        (lambda x: affine(x, squeeze=math.nan), "squeeze=nan"),
        (lambda x: affine(x, zoom=(math.nan, 1.0)), "zoom="),
        (lambda x: affine(x, zoom=(1.0, math.inf)), "zoom="),
        (lambda x: recolour(x, math.nan), "strength=nan"),
        (lambda x: erase(x, math.nan), "share=nan"),
        (lambda x: affine(x, shift=-0.1), "shift=-0.1"),
        (lambda x: affine(x, squeeze=0.5), "squeeze=0.5"),
        (lambda x: recolour(x, 1.5), "strength=1.5"),
        (lambda x: recolour(x, -0.5), "strength=-0.5"),
        (lambda x: erase(x, 1.5), "share=1.5"),
        (lambda x: erase(x, -0.5), "share=-0.5"),
    ],
)
def test_wrong_settings_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call(torch.zeros(2, 3, 4, 4))
