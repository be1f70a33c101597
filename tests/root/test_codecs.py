import io

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data
from skimage.metrics import peak_signal_noise_ratio

from minitok import codecs


def crops(size=64, count=3):
    photographs = [data.astronaut(), data.coffee(), data.chelsea()][:count]
    small = [
        np.array(Image.fromarray(p[:300, :300]).resize((size, size), Image.Resampling.LANCZOS)) for p in photographs
    ]
    return torch.from_numpy(np.stack(small)).permute(0, 3, 1, 2) / 255


def psnr(x, y):
    return np.array([peak_signal_noise_ratio(a, b, data_range=1) for a, b in zip(x.numpy(), y.numpy(), strict=True)])


@pytest.mark.parametrize("format", ["JPEG", "WEBP"])
def test_every_file_fits_and_more_bytes_give_better_images(format):
    x = crops()
    coded = [codecs.at_budget(x, budget, format) for budget in (420, 800, 1600)]
    assert all((c.bytes <= budget).all() for c, budget in zip(coded, (420, 800, 1600), strict=True))
    # The budget is used up to a step of quality, unless the best file is a smaller image's.
    assert (coded[-1].bytes > 1400).all()
    quality = np.stack([psnr(x, c.images) for c in coded])
    assert (np.diff(quality, axis=0) > 0.5).all()
    assert all(c.images.shape == x.shape and c.images.dtype == x.dtype for c in coded)
    assert coded[0].bytes.dtype == torch.int64


def all_jpegs(pixels, budget):
    """The plain search: every size, subsampling and quality setting."""
    picture = Image.fromarray(pixels)
    for shrink in (1, 2, 4):
        small = picture.resize((picture.width // shrink, picture.height // shrink), Image.Resampling.LANCZOS)
        for subsampling in (0, 2):
            for quality in range(1, 101):
                file = io.BytesIO()
                small.save(file, "JPEG", quality=quality, subsampling=subsampling, optimize=True)
                if file.tell() <= budget:
                    decoded = Image.open(file).resize(picture.size, Image.Resampling.BICUBIC)
                    yield peak_signal_noise_ratio(pixels, np.array(decoded))


@pytest.mark.parametrize("budget", [384, 900])
def test_jpeg_is_as_good_as_a_search_of_all_settings_finds(budget):
    x = crops(count=2)
    found = psnr(x, codecs.at_budget(x, budget, "JPEG").images)
    pixels = (x * 255).round().byte().permute(0, 2, 3, 1).numpy()
    best = [max(all_jpegs(image, budget)) for image in pixels]
    np.testing.assert_allclose(found, best, rtol=0, atol=0.1)


def test_jpeg_wins_by_colour_resolution_where_colour_is_the_picture():
    stripes = torch.zeros(1, 3, 64, 64)
    stripes[:, 0, :, ::2], stripes[:, 2, :, 1::2] = 1, 1
    coarse = io.BytesIO()
    Image.fromarray((stripes[0] * 255).byte().permute(1, 2, 0).numpy()).save(coarse, "JPEG", quality=95)
    blurred = torch.from_numpy(np.array(Image.open(coarse))).permute(2, 0, 1)[None] / 255
    ours = codecs.at_budget(stripes, len(coarse.getvalue()), "JPEG").images
    assert psnr(stripes, ours) > psnr(stripes, blurred) + 5


@pytest.mark.parametrize(("format", "budget"), [("JPEG", 345), ("WEBP", 110)])
def test_what_does_not_fit_at_full_size_is_coded_smaller(format, budget):
    x = crops(count=1)
    picture = Image.fromarray((x[0] * 255).round().byte().permute(1, 2, 0).contiguous().numpy())
    whole = io.BytesIO()
    picture.save(whole, format, quality=1 if format == "JPEG" else 0, method=6, optimize=True)
    assert whole.tell() > budget
    coded = codecs.at_budget(x, budget, format)
    assert coded.bytes.item() <= budget
    assert psnr(x, coded.images).item() > 12


def test_webp_beats_jpeg_on_small_files_since_its_header_is_shorter():
    x = crops()
    assert (psnr(x, codecs.at_budget(x, 500, "WEBP").images) > psnr(x, codecs.at_budget(x, 500).images) + 2).all()


def test_each_image_is_coded_by_itself_and_the_same_each_time():
    x = crops()
    together, alone = codecs.at_budget(x, 700, "WEBP"), codecs.at_budget(x[1:2], 700, "WEBP")
    torch.testing.assert_close(together.images[1:2], alone.images, rtol=0, atol=0)
    assert together.bytes[1] == alone.bytes[0]


def test_an_odd_size_and_an_empty_batch():
    assert codecs.at_budget(crops()[:, :, :37, :21], 700).images.shape == (3, 3, 37, 21)
    empty = codecs.at_budget(torch.zeros(0, 3, 8, 8), 700)
    assert empty.images.shape == (0, 3, 8, 8)
    assert empty.bytes.shape == (0,)


def test_bad_input_is_refused():
    x = crops(count=1)
    with pytest.raises(ValueError, match=r"budget=60 bytes: image 0 does not fit as JPEG"):
        codecs.at_budget(x, 60)
    with pytest.raises(ValueError, match=r"format='GIF', expected one of JPEG, WEBP"):
        codecs.at_budget(x, 600, "GIF")
    with pytest.raises(ValueError, match="outside"):
        codecs.at_budget(x * 1.5, 600)
