import inspect
import math

import numpy as np
import pytest
import scipy.linalg
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torch import nn

from minitok import counting, metrics


def pairs(seed=0, channels=3, size=(40, 33), noise=0.1):
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(4, channels, *size, generator=generator)
    # Smooth in part, so that windows differ in contrast.
    x[:2] = nn.functional.avg_pool2d(x[:2], 5, stride=1, padding=2)
    return x, (x + noise * torch.randn(x.shape, generator=generator)).clamp(0, 1)


@pytest.mark.parametrize("noise", [0.02, 0.3])
def test_psnr_is_that_of_skimage(noise):
    x, y = pairs(noise=noise)
    expected = [peak_signal_noise_ratio(a, b, data_range=1) for a, b in zip(x.numpy(), y.numpy(), strict=True)]
    torch.testing.assert_close(metrics.psnr(x, y), torch.tensor(expected), rtol=0, atol=1e-3, check_dtype=False)


def test_psnr_takes_a_mean_over_images_not_over_pixels_of_the_set():
    x = torch.zeros(2, 1, 2, 2)
    y = torch.stack([torch.full((1, 2, 2), 0.1), torch.full((1, 2, 2), 0.01)])
    torch.testing.assert_close(metrics.psnr(x, y), torch.tensor([20.0, 40.0]), rtol=0, atol=1e-4)
    assert metrics.psnr(x, x).isposinf().all()


def test_psnr_of_bfloat16_is_computed_in_float32():
    x, y = (t.bfloat16() for t in pairs())
    torch.testing.assert_close(metrics.psnr(x, y), metrics.psnr(x.float(), y.float()))


@pytest.mark.parametrize(("channels", "size"), [(1, (11, 11)), (3, (40, 33)), (3, (64, 64))])
def test_ssim_is_that_of_skimage(channels, size):
    x, y = pairs(channels=channels, size=size)
    settings = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 1}
    expected = [
        structural_similarity(a, b, channel_axis=0, **settings) for a, b in zip(x.numpy(), y.numpy(), strict=True)
    ]
    torch.testing.assert_close(metrics.ssim(x, y), torch.tensor(expected), rtol=0, atol=1e-4, check_dtype=False)


def test_ssim_of_an_image_with_itself_is_1_and_with_its_negative_less_than_0():
    x, _ = pairs()
    torch.testing.assert_close(metrics.ssim(x, x), torch.ones(4), rtol=0, atol=1e-5)
    assert (metrics.ssim(x, 1 - x) < 0).all()


@pytest.mark.parametrize("level", [0.02, 0.98])
def test_ssim_keeps_the_digits_of_even_images(level):
    x, y = (level + 0.004 * (image - 0.5) for image in pairs(noise=0.5))
    settings = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 1}
    found = [
        structural_similarity(*pair, channel_axis=0, **settings)
        for pair in zip(x.double().numpy(), y.double().numpy(), strict=True)
    ]
    torch.testing.assert_close(metrics.ssim(x, y).double(), torch.tensor(found), rtol=0, atol=3e-7)


@pytest.mark.parametrize("metric", [metrics.psnr, metrics.ssim])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_images_with_values_that_are_not_finite_are_refused(metric, bad):
    x, y = pairs()
    y[1, 0, 3, 3] = bad
    with pytest.raises(ValueError, match="y holds NaN or infinity"):
        metric(x, y)
    with pytest.raises(ValueError, match="x holds NaN or infinity"):
        metric(y, x)


@pytest.mark.parametrize("metric", [metrics.psnr, metrics.ssim])
def test_images_of_different_shapes_are_refused(metric):
    with pytest.raises(ValueError, match=r"y has shape \(2, 3, 16, 1\).*\(2, 3, 16, 16\)"):
        metric(torch.zeros(2, 3, 16, 16), torch.zeros(2, 3, 16, 1))


def test_ssim_refuses_images_smaller_than_its_window():
    with pytest.raises(ValueError, match="10x32"):
        metrics.ssim(torch.zeros(1, 1, 10, 32), torch.zeros(1, 1, 10, 32))


def features(n, c, seed):
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(c, c, generator=generator)
    return torch.randn(n, c, generator=generator) @ mixing + torch.randn(c, generator=generator)


@pytest.mark.parametrize(("n", "m", "c"), [(50, 80, 1), (60, 50, 7), (300, 200, 32)])
def test_frechet_distance_is_the_formula_with_scipys_matrix_root(n, m, c):
    a, b = features(n, c, 0), features(m, c, 1)
    x, y = a.double().numpy(), b.double().numpy()
    cov_a, cov_b = (np.atleast_2d(np.cov(f, rowvar=False)) for f in (x, y))
    root = np.real(np.asarray(scipy.linalg.sqrtm(cov_a @ cov_b)))
    expected = ((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(cov_a + cov_b - 2 * root)
    assert math.isclose(metrics.frechet_distance(a, b), expected, rel_tol=1e-6)


def test_frechet_distance_in_one_dimension_compares_means_and_deviations():
    a, b = features(90, 1, 2), 3 * features(70, 1, 3) + 4
    expected = (a.mean() - b.mean()) ** 2 + (a.std() - b.std()) ** 2
    assert math.isclose(metrics.frechet_distance(a, b), expected, rel_tol=1e-4)


def test_frechet_distance_is_0_to_itself_symmetric_and_works_with_fewer_samples_than_features():
    a, b = features(12, 20, 4), features(15, 20, 5)
    assert abs(metrics.frechet_distance(a, a)) < 1e-4
    assert math.isclose(metrics.frechet_distance(a, b), metrics.frechet_distance(b, a), rel_tol=1e-6)
    assert math.isclose(metrics.frechet_distance(a, a + 2), 4 * 20, rel_tol=1e-4)


@pytest.mark.parametrize("offset", [0.0, 1e4, 1e7])
@pytest.mark.parametrize("n", [12, 200])
def test_frechet_distance_keeps_its_digits_far_from_zero_and_with_few_samples(offset, n):
    a, b = features(n, 20, 4).double(), features(2 * n, 20, 5).double()
    near = metrics.frechet_distance(a, b)
    assert math.isclose(metrics.frechet_distance(a + offset, b + offset), near, rel_tol=1e-7)
    assert 0 <= metrics.frechet_distance(a + offset, a + offset) < 1e-9 * near
    turned = torch.linalg.qr(torch.randn(20, 20, dtype=torch.float64)).Q
    assert math.isclose(metrics.frechet_distance(a @ turned, b @ turned), near, rel_tol=1e-9)


def test_frechet_distance_refuses_what_has_no_covariance():
    good = torch.zeros(5, 3)
    with pytest.raises(ValueError, match="b holds 1 sample"):
        metrics.frechet_distance(good, good[:1])
    with pytest.raises(ValueError, match="a holds values that are not finite"):
        metrics.frechet_distance(good.log() * 0, good)


def test_accuracy_counts_right_labels_over_all_leading_axes():
    logits = torch.tensor([[[0.0, 1.0, 0.5], [2.0, 1.0, 0.0]], [[0.0, 0.0, 3.0], [0.3, 0.2, 0.1]]])
    assert metrics.accuracy(logits, torch.tensor([[1, 0], [2, 1]])) == 0.75
    assert metrics.accuracy(logits, torch.tensor([[0, 1], [0, 1]])) == 0.0
    with pytest.raises(ValueError, match="labels run from 0 to 3, expected 0 to 2"):
        metrics.accuracy(logits, torch.tensor([[0, 1], [2, 3]]))


@pytest.mark.parametrize("measure", [metrics.accuracy, metrics.bits_per_code])
def test_logits_that_are_no_numbers_are_refused(measure):
    labels, ruled_out = torch.tensor([0, 1]), torch.tensor([[1.0, -math.inf], [0.0, 2.0]])
    assert math.isfinite(measure(ruled_out, labels))
    for bad in (math.nan, math.inf):
        with pytest.raises(ValueError, match="logits holds NaN"):
            measure(torch.tensor([[1.0, 0.0], [bad, 2.0]]), labels)


def test_code_statistics_are_those_of_a_plain_loop():
    codes = torch.randint(0, 50, (7, 9), generator=torch.Generator().manual_seed(0))
    counts = {}
    for code in codes.flatten().tolist():
        counts[code] = counts.get(code, 0) + 1
    bits = -sum(n / 63 * math.log2(n / 63) for n in counts.values())
    assert math.isclose(metrics.entropy_bits(codes, 50), bits, rel_tol=1e-6)
    assert math.isclose(metrics.perplexity(codes, 50), 2**bits, rel_tol=1e-6)
    assert metrics.codebook_use(codes, 50) == len(counts) / 50
    assert metrics.codebook_use(codes, 100) == len(counts) / 100


def test_a_collapsed_codebook_has_perplexity_1_and_a_uniform_one_K():
    assert metrics.perplexity(torch.full((4, 4), 7), 16) == 1
    assert math.isclose(metrics.perplexity(torch.arange(16), 16), 16, rel_tol=1e-9)
    assert metrics.codebook_use(torch.full((4, 4), 7), 16) == 1 / 16


@pytest.mark.parametrize("measure", [metrics.perplexity, metrics.entropy_bits, metrics.codebook_use])
def test_codes_outside_the_codebook_are_refused(measure):
    with pytest.raises(ValueError, match="codes run from 0 to 4, expected 0 to 3"):
        measure(torch.arange(5), 4)
    with pytest.raises(ValueError, match="codes run from -1"):
        measure(torch.arange(5) - 1, 9)
    with pytest.raises(ValueError, match="codes is empty"):
        measure(torch.zeros(0, dtype=torch.long), 4)


def test_bits_per_code_is_cross_entropy_in_bits():
    generator = torch.Generator().manual_seed(0)
    logits, codes = (
        torch.randn(3, 5, 11, generator=generator),
        torch.randint(0, 11, (3, 5), generator=generator),
    )
    expected = nn.functional.cross_entropy(logits.flatten(0, 1), codes.flatten()) / math.log(2)
    assert math.isclose(metrics.bits_per_code(logits, codes), expected, rel_tol=1e-5)
    with pytest.raises(ValueError, match="codes run"):
        metrics.bits_per_code(logits, codes + 11)


def test_flops_of_a_layer_a_convolution_and_attention_are_the_formulas():
    x = torch.zeros(4, 6)
    assert metrics.flops(nn.Linear(6, 10), x) == 2 * 4 * 6 * 10
    image, layer = torch.zeros(2, 3, 8, 8), nn.Conv2d(3, 5, 3, padding=1)
    assert metrics.flops(layer, image) == 2 * 2 * 8 * 8 * 5 * 3 * 9
    q, k = torch.zeros(2, 4, 16, 8), torch.zeros(2, 4, 24, 8)
    attention = nn.functional.scaled_dot_product_attention
    assert metrics.flops(attention, q, k, k) == 2 * (2 * 2 * 4 * 16 * 24 * 8)
    assert metrics.flops(torch.relu, x) == 0


def test_flops_count_a_backward_pass_inside_the_function():
    layer = nn.Linear(6, 10, bias=False)
    x = torch.zeros(4, 6, requires_grad=True)
    assert metrics.flops(lambda: layer(x).sum().backward()) == 3 * metrics.flops(layer, x)


def test_flops_without_gradients_count_the_products_that_layers_are_made_of():
    attention, q, layer = nn.functional.scaled_dot_product_attention, torch.zeros(1, 2, 5, 4), nn.Linear(6, 10)
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            assert metrics.flops(layer, torch.zeros(3, 6)) == 2 * 3 * 6 * 10
            assert metrics.flops(attention, q, q, q) == 2 * 2 * 2 * 5 * 5 * 4
            assert metrics.flops(torch.bmm, q[0], q[0].mT) == 2 * 2 * 5 * 5 * 4


def test_the_counter_is_not_wrapped_in_what_imports_the_compiler():
    function = inspect.unwrap(
        counting.Counter.__torch_dispatch__, stop=lambda f: f.__globals__["__name__"] == "torch._compile"
    )
    assert function.__globals__["__name__"] == "minitok.counting"


def test_parameters_counts_shared_and_frozen_ones_once():
    first, second = nn.Linear(4, 4), nn.Linear(4, 4)
    second.weight = first.weight
    first.bias.requires_grad_(False)
    assert metrics.parameters(nn.Sequential(first, second, nn.BatchNorm1d(4))) == 16 + 4 + 4 + 8


def test_bytes_held_follows_shapes_and_dtypes():
    assert metrics.bytes_held() == 0
    tensors = [torch.zeros(3, 5, dtype=d) for d in (torch.float32, torch.bfloat16, torch.uint8, torch.int64)]
    assert metrics.bytes_held(*tensors) == 15 * (4 + 2 + 1 + 8)
    # A view that repeats its elements is counted as what it stands for.
    assert metrics.bytes_held(torch.zeros(1, 5).expand(3, 5)) == 60


def test_difference_is_the_largest_and_never_hides_a_nan():
    a = torch.tensor([1.0, 2.0, math.inf])
    assert metrics.difference(a, a) == 0
    assert metrics.difference(a, torch.tensor([1.25, 1.0, math.inf])) == 1
    assert metrics.difference(a, torch.tensor([1.0, math.nan, math.inf])) == math.inf
    assert metrics.difference(a, torch.tensor([1.0, 2.0, -math.inf])) == math.inf
    assert metrics.difference(torch.tensor([1, 5]), torch.tensor([1, 2])) == 3
    assert metrics.difference(torch.zeros(0, 3), torch.zeros(0, 3)) == 0
    with pytest.raises(ValueError, match="shape"):
        metrics.difference(torch.zeros(2, 1), torch.zeros(2, 2))
