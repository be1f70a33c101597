"""What the tokenizers of chapter 2 are measured against."""

import pytest
import torch

from minitok.data import picture
from minitok.house import _one_d
from minitok.metrics import psnr
from minitok.stages import rivals


def test_lengths_double_and_end_at_all():
    assert _one_d.lengths(64) == [1, 2, 4, 8, 16, 32, 64]
    assert _one_d.lengths(6) == [1, 2, 4, 6]
    assert _one_d.lengths(1) == [1]


def test_principal_components_are_those_of_the_covariance():
    images = torch.randn(200, 1, 4, 4) * 2.0 ** -torch.arange(16.0).view(4, 4)
    linear = rivals.principal_components(images, 3)
    values, vectors = torch.linalg.eigh(torch.cov(images.flatten(1).T))
    torch.testing.assert_close(linear.places.var(0), values.flip(0)[:3], atol=1e-2, rtol=1e-3)
    along = (linear.axes * vectors.flip(1)[:, :3]).sum(0).abs()
    torch.testing.assert_close(along, torch.ones(3), atol=1e-2, rtol=0)
    assert torch.equal(rivals.principal_components(images, 3).axes, linear.axes)


@pytest.mark.parametrize("bits", [1, 2, 3, 5])
def test_cells_have_about_the_error_of_the_best_for_normal_numbers(bits):
    places = torch.randn(20_000) * 3
    edges, values = rivals.levels(places, bits)
    assert (len(edges), len(values)) == (2**bits - 1, 2**bits)
    assert (edges.diff() > 0).all()
    rounded = torch.tensor([float(values[sum(float(e) < p for e in edges)]) for p in places[:50].tolist()])
    assert torch.equal(values[torch.bucketize(places[:50], edges)], rounded)
    error = (values[torch.bucketize(places, edges)] - places).square().mean() / places.var()
    assert float(rivals.NORMAL_ERROR[bits]) * 0.97 < error < float(rivals.NORMAL_ERROR[bits]) * 1.15


def test_an_empty_cell_has_a_value_between_its_edges():
    places = torch.cat([torch.full((50,), -1.0), torch.full((50,), 1.0)])
    edges, values = rivals.levels(places, 3)
    assert values.isfinite().all()
    assert all(low <= value <= high for low, value, high in zip(edges[:-1], values[1:-1], edges[1:], strict=True))


def test_more_bits_of_a_linear_code_leave_less_error():
    mixture = torch.randn(12, 3 * 8 * 8) * 0.05
    images = (torch.randn(300, 12) @ mixture + 0.5).clamp(0, 1).view(300, 3, 8, 8)
    linear = rivals.principal_components(images[:200], 12)
    errors = [float((linear(images[200:], bits) - images[200:]).square().mean()) for bits in (0, 12, 48, 96)]
    assert errors[0] > 1.5 * errors[1] > 3 * errors[2] > 6 * errors[3]


def test_a_thumbnails_codes_keep_more_than_a_colour_and_less_than_all_codes():
    image = picture.load()[None]
    tokenizer = _one_d.house_tokenizer()
    kept = rivals.thumbnails(image)
    plain = image.mean((2, 3), keepdim=True).expand_as(image)
    whole = tokenizer.decode(tokenizer.encode(image))
    assert float(psnr(plain, image)) + 3 < float(psnr(kept, image)) < float(psnr(whole, image)) - 3
    assert tokenizer.grid == 16


@pytest.mark.usefixtures("unchecked")
def test_a_thumbnail_has_one_price():
    with pytest.raises(ValueError, match="bits=384 came, expected 768"):
        rivals.thumbnails(torch.rand(1, 3, 64, 64), 384)


def test_plain_colours_and_files_are_within_their_budget():
    image = picture.load()[None]
    assert torch.equal(rivals.plain(image, 12)[0, :, 5, 9], image.mean((0, 2, 3)))
    assert float(psnr(rivals.plain(image, 12), image)) < float(psnr(rivals.webp(image, 768), image))
    assert float(psnr(rivals.webp(image, 768), image)) < float(psnr(rivals.webp(image, 3072), image))
