"""The photographs against scikit-image's and scikit-learn's own loaders; crops against a plain average."""

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from minitok.data import photographs


def test_colour_photographs_are_those_of_the_packages():
    import skimage.data
    from sklearn.datasets import load_sample_images

    left, right, _ = skimage.data.stereo_motorcycle()
    china, flower = load_sample_images().images
    theirs = {"motorcycle_left": left, "motorcycle_right": right, "china": china, "flower": flower}
    assert photographs.names() == tuple(sorted(photographs.names()))
    assert len(photographs.names()) == 11
    for name in photographs.names():
        expected = theirs[name] if name in theirs else getattr(skimage.data, name)()
        found = photographs.load(name)
        assert found.shape[0] == 3
        assert found.is_contiguous()
        # JPEG files may be decoded by another library there: levels may differ by one or two
        assert_close(found.permute(1, 2, 0) * 255, torch.tensor(expected).float(), atol=2.01, rtol=0)


def test_gray_photographs_are_those_of_scikit_image():
    import skimage.data

    assert len(photographs.gray_names()) == 11
    for name in photographs.gray_names():
        expected = torch.tensor(getattr(skimage.data, name)()).float()
        assert_close(photographs.load_gray(name)[0] * 255, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("load", [photographs.load, photographs.load_gray])
def test_an_unknown_name_lists_the_known_ones(load):
    with pytest.raises(ValueError, match=r"name='lena' is not one of (astronaut|brick), c"):
        load("lena")


def test_crops_depend_on_the_seed_alone():
    first = photographs.crops(12, 16, seed=3)
    assert first.shape == (12, 3, 16, 16)
    assert first.is_contiguous()
    assert_close(photographs.crops(12, 16, seed=3), first, atol=0, rtol=0)
    assert_close(photographs.crops(5, 16, seed=3), first[:5], atol=0, rtol=0)
    assert (photographs.crops(12, 16, seed=4) - first).abs().mean() > 0.05
    assert photographs.crops(0, 16).shape == (0, 3, 16, 16)


def test_a_crop_at_full_size_is_cut_out_and_at_half_size_averaged():
    from PIL import Image

    grid = np.random.default_rng(0).integers(0, 256, (48, 40, 3), dtype=np.uint8)
    image = Image.fromarray(grid)
    # scale 0 is the crop's own size, 1 the short side; places 0 to 1 span what is left
    assert (photographs._crop(image, 16, 0.0, 1.0, 0.5) == grid[16:32, 24:40]).all()
    small = photographs._crop(image, 5, 1.0, 0.0, 0.0).astype(float)
    blocks = grid[:40].reshape(5, 8, 5, 8, 3).mean((1, 3))
    assert np.abs(small - blocks).mean() < 12
    assert np.abs(small - grid[4:40:8, 4:40:8]).mean() > 40


def test_crops_come_from_every_photograph_and_from_inside_it(monkeypatch):
    from PIL import Image

    shades = {name: Image.new("RGB", (310, 300), (20 * i, 0, 0)) for i, name in enumerate(photographs.names())}
    monkeypatch.setattr(photographs, "_colour", shades.get)
    red = photographs.crops(300, 8)[:, 0] * 255
    assert_close(red.amin((1, 2)), red.amax((1, 2)), atol=0, rtol=0)
    assert red[:, 0, 0].round().unique().tolist() == [20.0 * i for i in range(11)]


@pytest.mark.parametrize("size", [0, 301])
def test_crops_have_a_size_that_every_photograph_can_give(size):
    with pytest.raises(ValueError, match=f"size={size} is not between 1 and 300"):
        photographs.crops(1, size)
    with pytest.raises(ValueError, match="n=-1 is negative"):
        photographs.crops(-1, 8)
