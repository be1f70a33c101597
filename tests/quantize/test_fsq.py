import itertools
import math

import numpy as np
import pytest
import torch

from minitok.quantize.fsq import FSQ, bound

LEVELS = [(3,), (4,), (2, 2), (3, 4), (8, 5, 5, 5), (7, 6, 5, 2, 3)]
z_of = torch.tensor


def test_three_levels_by_hand():
    values, codes, loss = FSQ((3,))(z_of([[[-9.0], [-0.1], [0.0], [0.1], [9.0]]]))
    assert codes.flatten().tolist() == [0, 1, 1, 1, 2]
    assert values.flatten().tolist() == [-1, 0, 0, 0, 1]
    assert loss.item() == 0


def test_four_levels_by_hand():
    # The whole numbers are -2, -1, 0, 1; a little below zero is still 0, since f(0) = 0 lies in the middle of its step.
    values, codes, _ = FSQ((4,))(z_of([[[-9.0], [-0.8], [-0.2], [0.0], [0.2], [9.0]]]))
    assert codes.flatten().tolist() == [0, 1, 2, 2, 2, 3]
    assert values.flatten().tolist() == [-1, -0.5, 0, 0, 0, 0.5]


def test_the_first_channel_counts_least():
    layer = FSQ((3, 4, 2))
    assert layer.K == 24
    assert layer.bits == pytest.approx(math.log2(24))
    z = z_of([[[-9.0, -9.0, -9.0], [9.0, -9.0, -9.0], [-9.0, 9.0, -9.0], [-9.0, -9.0, 9.0], [9.0, 9.0, 9.0]]])
    assert layer.encode(z).flatten().tolist() == [0, 2, 3 * 3, 3 * 4, 23]
    assert layer.decode(z_of([[[1 + 3 * 2 + 12 * 1]]])).flatten().tolist() == [0.0, 0.0, 0.0]


def looped(z, levels, eps, atanh):
    """The paper's listing in float64, number by number: values and codes. It has `-eps` and `atanh=np.tan`."""
    values, codes = np.zeros_like(z), np.zeros(len(z), dtype=int)
    for i, vector in enumerate(z):
        basis = 1
        for j, L in enumerate(levels):
            half = (L - 1) * (1 + eps) / 2
            offset = 0.5 if L % 2 == 0 else 0.0
            whole = round(np.tanh(vector[j] + atanh(offset / half)) * half - offset)
            values[i, j] = whole / (L // 2)
            codes[i] += (whole + L // 2) * basis
            basis *= L
    return values, codes


@pytest.mark.parametrize("levels", LEVELS)
def test_values_and_codes_are_those_of_a_plain_loop(levels):
    z = torch.randn(1, 500, len(levels), generator=torch.Generator().manual_seed(3)) * 2
    values, codes = looped(z[0].double().numpy(), levels, 1e-3, np.arctanh)
    found = FSQ(levels)(z)
    torch.testing.assert_close(found.values[0], torch.from_numpy(values).float(), rtol=0, atol=1e-6)
    assert found.codes[0, :, 0].tolist() == codes.tolist()


@pytest.mark.parametrize("levels", [(8, 8, 8, 8), (8, 5, 5, 5), (7, 6)])
def test_the_papers_listing_gives_nearly_always_the_same_codes(levels):
    z = torch.randn(1, 3000, len(levels))
    _, codes = looped(z[0].double().numpy(), levels, -1e-3, np.tan)
    same = FSQ(levels).encode(z)[0, :, 0].numpy() == codes
    assert same.mean() > 0.975


@pytest.mark.parametrize("levels", LEVELS)
def test_zero_stays_zero(levels):
    assert bound(torch.zeros(len(levels)), z_of(levels)).abs().max() < 1e-6
    assert FSQ(levels)(torch.zeros(1, 1, len(levels))).values.abs().max() == 0


@pytest.mark.parametrize("L", [2, 3, 4, 5, 8, 16, 255, 256, 999, 1000])
def test_rounding_gives_as_many_whole_numbers_as_levels(L):
    z = torch.linspace(-12, 12, 400_001).double()[:, None]
    whole = bound(z, z_of([L])).round()
    assert whole.unique().tolist() == list(range(-(L // 2), (L - 1) // 2 + 1))
    assert (whole.diff(dim=0) >= 0).all()


def test_eps_widens_the_outermost_steps():
    z = torch.full((1,), 3.0)
    assert bound(z, z_of([5]), eps=0.1) / bound(z, z_of([5]), eps=0.0) == pytest.approx(1.1)
    assert bound(100 * z, z_of([5]), eps=0.0).item() == 2
    assert bound(100 * z, z_of([5])).item() == pytest.approx(2.002)


@pytest.mark.parametrize("levels", LEVELS)
def test_all_codes_are_different_vectors_and_each_is_reached(levels):
    layer = FSQ(levels)
    codes = torch.arange(math.prod(levels))[None, :, None]
    values = layer.decode(codes)
    assert layer.K == len({tuple(v) for v in values[0].tolist()}) == math.prod(levels)
    # The way back through the squash: the z whose f(z) is the whole number.
    z = torch.zeros_like(values)
    for j, L in enumerate(levels):
        half, offset = (L - 1) * 1.001 / 2, (L % 2 == 0) / 2
        whole = values[..., j] * (L // 2)
        z[..., j] = ((whole + offset) / half).atanh() - math.atanh(offset / half)
    assert torch.equal(layer.encode(z), codes)
    torch.testing.assert_close(layer(z).values, values, rtol=0, atol=1e-6)


def test_values_are_a_grid_in_the_order_of_the_codes():
    steps = [[-1.0, -0.5, 0.0, 0.5], [-1.0, 0.0, 1.0]]
    expected = [[a, b] for b, a in itertools.product(steps[1], steps[0])]
    assert FSQ((4, 3)).decode(torch.arange(12)[None, :, None])[0].tolist() == expected


@pytest.mark.parametrize("levels", [(3, 8), (2, 5)])
def test_gradients_are_those_of_the_squash(levels):
    z, weights = torch.randn(2, 6, 2, requires_grad=True), torch.randn(2, 6, 2)
    (found,) = torch.autograd.grad((FSQ(levels)(z).values * weights).sum(), z)
    expected = torch.zeros_like(found)
    for j, L in enumerate(levels):
        half, offset = (L - 1) * 1.001 / 2, (L % 2 == 0) / 2
        inner = (z[..., j] + math.atanh(offset / half)).tanh()
        expected[..., j] = weights[..., j] * (1 - inner**2) * half / (L // 2)
    torch.testing.assert_close(found, expected.detach(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("levels", LEVELS)
def test_codes_count_as_numpy_counts_the_cells_of_an_array(levels):
    layer, K = FSQ(levels), math.prod(levels)
    places = np.stack(np.unravel_index(np.arange(K), levels, order="F"), -1)
    halves = np.array([L // 2 for L in levels])
    values = layer.decode(torch.arange(K)[None, :, None])[0]
    torch.testing.assert_close(values, torch.from_numpy(places / halves - 1).float(), rtol=0, atol=1e-6)


def test_a_channel_moves_only_its_own_digit_of_the_code():
    layer, z = FSQ((5, 4, 3)), torch.zeros(1, 25, 3)
    z[0, :, 1] = torch.linspace(-3, 3, 25)
    values, codes, _ = layer(z)
    assert values[..., [0, 2]].abs().max() == 0
    # Level 2 of 5 is code 2, level 1 of 3 is 20; the steps of the channel between them are worth 5 each.
    assert sorted(set(codes.flatten().tolist())) == [22, 27, 32, 37]


def test_far_out_the_gradient_fades_and_the_values_stay_at_the_end():
    z = z_of([[[0.0], [3.0], [50.0]]], requires_grad=True)
    values = FSQ((5,))(z).values
    (gradient,) = torch.autograd.grad(values.sum(), z)
    near, far, farthest = gradient.flatten().tolist()
    assert values.flatten().tolist() == [0, 1, 1]
    assert near == pytest.approx(1.001, abs=1e-5)
    assert 0 < far < 0.02
    assert farthest == 0


def test_an_encoder_learns_every_level_through_the_rounding():
    # Numbers from -1 to 1, at first all rounded to zero: gradients widen them until all five levels are in use.
    x, scale = torch.linspace(-1, 1, 64)[None, :, None], z_of([0.2], requires_grad=True)
    layer, optimizer = FSQ((5,)), torch.optim.Adam([scale], lr=0.05)
    first = layer.encode(x * scale).unique().numel()
    for _ in range(100):
        optimizer.zero_grad()
        (layer(x * scale).values - x).square().mean().backward()
        optimizer.step()
    assert first == 1
    assert layer.encode(x * scale).unique().numel() == 5
    assert (layer(x * scale).values - x).abs().max() < 0.35


@pytest.mark.parametrize("shape", [(0, 5), (2, 0), (1, 1), (3, 7)])
def test_any_number_of_vectors_is_taken(shape):
    layer = FSQ((4, 3, 5))
    values, codes, loss = layer(torch.randn(*shape, 3))
    assert values.shape == layer.decode(codes).shape == (*shape, 3)
    assert codes.shape == (*shape, 1)
    assert loss.shape == ()


def test_bfloat16_gives_the_codes_of_its_own_numbers():
    layer, z = FSQ((8, 8, 5)), torch.randn(2, 100, 3).bfloat16()
    assert torch.equal(layer.encode(z), layer.encode(z.float()))
    assert torch.equal(layer(z).values, layer(z.float()).values)


def test_nothing_is_stored_or_trained():
    layer = FSQ((8, 8))
    assert list(layer.parameters()) == []
    assert layer.state_dict() == {}


@pytest.mark.parametrize("levels", [(), (1,), (8, 0), (8, -3), (4, 1001)])
def test_wrong_levels_are_refused(levels):
    with pytest.raises(ValueError, match="expected at least one channel, each of 2 to 1000 levels"):
        FSQ(levels)


def test_as_many_codes_as_64_bits_hold_are_whole_numbers_from_0():
    layer = FSQ((2,) * 63)
    ends = torch.stack([torch.full((63,), -9.0), torch.zeros(63), torch.full((63,), 9.0)])[None]
    values, codes, _ = layer(ends)
    assert layer.K == 2**63
    assert codes.flatten().tolist() == [0, 2**63 - 1, 2**63 - 1]
    assert torch.equal(layer.decode(codes), values)
    many = FSQ((1000,) * 6)
    values, codes, _ = many(torch.randn(2, 50, 6))
    assert torch.equal(many.decode(codes), values)


@pytest.mark.parametrize("levels", [(2,) * 64, (1000,) * 7, (8,) * 21 + (3,)])
def test_more_codes_than_64_bits_hold_are_refused(levels):
    with pytest.raises(ValueError, match="codes, expected at most 2\\^63: a code has 64 bits"):
        FSQ(levels)


@pytest.mark.parametrize("code", [-1, 12])
def test_codes_beyond_the_product_of_the_levels_are_refused(code):
    layer = FSQ((3, 4))
    assert layer.decode(torch.tensor([[[11]]])).tolist() == [[[1.0, 0.5]]]
    with pytest.raises(ValueError, match=f"codes from {min(code, 0)} to {max(code, 0)} came, expected 0 to 11"):
        layer.decode(torch.tensor([[[0], [code]]]))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda layer: layer(torch.randn(2, 5, 3)), r"z of shape \(2, 5, 3\) came, expected \(b, n, 2\)"),
        (lambda layer: layer.encode(torch.randn(5, 2)), r"z of shape \(5, 2\) came"),
        (lambda layer: layer.encode(torch.zeros(1, 5, 2, dtype=torch.long)), "z of type torch.int64 came"),
        (lambda layer: layer(torch.full((1, 5, 2), torch.inf)), "z holds NaN or infinity"),
        (lambda layer: layer.decode(torch.zeros(1, 5, 2, dtype=torch.long)), r"codes of shape \(1, 5, 2\) came"),
        (lambda layer: layer.decode(torch.zeros(1, 5, 1)), "codes of type torch.float32 came"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_bad_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call(FSQ((3, 4)))


def test_by_default_four_channels_of_8_levels():
    assert FSQ().bits == 12
    assert FSQ().encode(torch.full((1, 1, 4), 9.0)).item() == 8**4 - 1
