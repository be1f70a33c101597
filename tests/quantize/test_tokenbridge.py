import itertools
import math
from statistics import NormalDist

import numpy as np
import pytest
import torch

from minitok.quantize.tokenbridge import ChannelHead, TokenBridge, frequency_order, normal_bins

NORMAL = NormalDist()
EMPTY = [(0, 4, 2), (2, 0, 3), (2, 4, 0)]


def test_four_levels_by_hand():
    # Tables of N(0, 1): a quarter lies below -0.6745, where the density is 0.3178; at 0 it is 0.3989.
    edges, values = normal_bins(4)
    assert edges.tolist() == pytest.approx([-3, -0.6745, 0, 0.6745, 3], abs=1e-4)
    assert values[2].item() == pytest.approx((0.3989 - 0.3178) / 0.25, abs=5e-4)
    assert values[3].item() == pytest.approx((0.3178 - 0.0044) / (0.25 - 0.00135), abs=5e-4)
    layer = TokenBridge(d=1, levels=4, low=-3, high=3)
    codes = layer.encode(torch.tensor([[[-9.0], [-0.8], [-0.7], [-0.1], [0.1], [0.7], [0.8], [9.0]]]))
    # The nearest value decides: the boundary between the outer two is (0.325 + 1.260) / 2 = 0.792, not 0.6745.
    assert codes.flatten().tolist() == [0, 0, 1, 1, 2, 2, 3, 3]


def test_the_range_is_mapped_linearly():
    layer, narrow = TokenBridge(1, 4, low=-3, high=3), TokenBridge(1, 4, low=10, high=11)
    codes = torch.arange(4)[None, :, None]
    torch.testing.assert_close(narrow.decode(codes), (layer.decode(codes) + 3) / 6 + 10)
    assert narrow.encode(torch.tensor([[[0.0], [10.49], [10.51], [99.0]]])).flatten().tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("levels", [2, 3, 8, 17, 64, 740])
def test_bins_are_those_of_the_standard_library_and_of_plain_integration(levels):
    edges, values = normal_bins(levels)
    assert edges[0] == -3
    assert edges[-1] == 3
    inner = [NORMAL.inv_cdf(i / levels) for i in range(1, levels)]
    assert edges[1:-1].tolist() == pytest.approx([min(max(b, -3), 3) for b in inner], abs=1e-6)
    for i in {0, 1, levels // 2, levels - 1}:
        a = -3 if i == 0 else inner[i - 1]
        b = 3 if i == levels - 1 else inner[i]
        x = np.linspace(a, b, 20_001)
        p = np.exp(-(x**2) / 2)
        mean = np.trapezoid(x * p, x) / np.trapezoid(p, x)
        assert values[i].item() == pytest.approx(mean, abs=1e-6)


@pytest.mark.parametrize("levels", [2, 5, 32, 740])
def test_values_rise_and_are_symmetric(levels):
    _, values = normal_bins(levels)
    assert (values.diff() > 0).all()
    torch.testing.assert_close(values, -values.flip(0), atol=1e-6, rtol=0)


def by_loop(z, low, high, levels):
    """Codes and values number by number: the nearest mean of a bin, by Python's own normal distribution."""
    edges = [-3.0, *(NORMAL.inv_cdf(i / levels) for i in range(1, levels)), 3.0]
    means = [(NORMAL.pdf(a) - NORMAL.pdf(b)) / (NORMAL.cdf(b) - NORMAL.cdf(a)) for a, b in itertools.pairwise(edges)]
    codes, values = [], []
    for row in z.tolist():
        scaled = [min(max((x - lo) / (hi - lo) * 6 - 3, -3), 3) for x, lo, hi in zip(row, low, high, strict=True)]
        codes.append([min(range(levels), key=lambda k, x=x: abs(x - means[k])) for x in scaled])
        values.append([(means[k] + 3) / 6 * (hi - lo) + lo for k, lo, hi in zip(codes[-1], low, high, strict=True)])
    return codes, values


@pytest.mark.parametrize("levels", [2, 7, 16, 64])
def test_codes_and_values_are_those_of_a_plain_loop(levels):
    z = torch.randn(1, 200, 3) * torch.tensor([0.5, 2.0, 4.0]) + torch.tensor([0.0, 1.0, -3.0])
    layer = TokenBridge(3, levels)
    for low, high in (([-5.0] * 3, [5.0] * 3), ([-1.0, -4.0, -20.0], [2.0, 4.0, 7.0])):
        layer.low, layer.high = torch.tensor(low), torch.tensor(high)
        codes, values = by_loop(z[0], low, high, levels)
        assert layer.encode(z)[0].tolist() == codes
        torch.testing.assert_close(layer(z).values[0], torch.tensor(values), atol=2e-5, rtol=0)
        torch.testing.assert_close(layer.decode(torch.tensor([codes]))[0], torch.tensor(values), atol=1e-5, rtol=0)


def test_normal_latents_fill_bins_evenly_only_when_stretched_by_5_to_3():
    z, levels = torch.randn(1, 200_000, 1), 16
    shares = {}
    for deviation in (5 / 3, 1.0):
        codes = TokenBridge(1, levels).encode(z * deviation)
        shares[deviation] = codes.flatten().bincount(minlength=levels) / z.numel()
    # A code takes its nearest value, so even then shares differ from 1/16: at the ends by about 0.011.
    assert 0.008 < (shares[5 / 3] - 1 / levels).abs().max() < 0.014
    assert shares[1.0].max() > 1.5 / levels
    assert shares[1.0].min() < 0.2 / levels


def test_the_range_is_fitted_to_each_channel():
    z = torch.randn(4, 500, 2) * torch.tensor([0.1, 7.0]) + torch.tensor([-2.0, 30.0])
    layer = TokenBridge(2, 8)
    layer.fit_range(z)
    vectors = z.reshape(-1, 2).double().numpy()
    mean, deviation = vectors.mean(0), vectors.std(0, ddof=1)
    assert layer.low.tolist() == pytest.approx((mean - 5 * deviation).tolist(), rel=1e-4)
    assert layer.high.tolist() == pytest.approx((mean + 5 * deviation).tolist(), rel=1e-4)
    again = TokenBridge(2, 8)
    again.load_state_dict(layer.state_dict())
    assert torch.equal(again.encode(z), layer.encode(z))
    assert {len(layer.encode(z)[..., c].unique()) for c in range(2)} == {8}
    first = layer.high - layer.low
    layer.fit_range(z, spread=3)
    torch.testing.assert_close(layer.high - layer.low, first * 3 / 5)


def test_a_fitted_layer_commutes_with_moving_and_stretching_a_channel():
    z, layer = torch.randn(2, 300, 3), TokenBridge(3, 16)
    layer.fit_range(z)
    codes = layer.encode(z)
    layer.fit_range(4 * z + 8)
    assert (layer.encode(4 * z + 8) == codes).float().mean() > 0.999


@pytest.mark.parametrize("fitted", [False, True])
def test_the_error_falls_with_the_levels(fitted):
    z, errors = torch.randn(3, 400, 2), []
    for levels in (2, 4, 8, 16, 32, 64, 128):
        layer = TokenBridge(2, levels)
        if fitted:
            layer.fit_range(z)
        errors.append((layer(z).values - z).square().mean().item())
    assert all(b < 0.5 * a for a, b in itertools.pairwise(errors))
    assert errors[-1] < 1e-3


def test_a_channel_is_coded_alone():
    z, layer = torch.randn(2, 20, 4), TokenBridge(4, 8)
    moved = z.clone()
    moved[..., 2] += 1.5
    same = (layer.encode(moved) == layer.encode(z)).all(0).all(0)
    assert same.tolist() == [True, True, False, True]


def test_gradients_pass_straight_through_even_beyond_the_range():
    z, weights = (3 * torch.randn(2, 50, 4)).requires_grad_(), torch.randn(2, 50, 4)
    values, _, loss = TokenBridge(4, 8)(z)
    (gradient,) = torch.autograd.grad((values.square() * weights).sum(), z)
    torch.testing.assert_close(gradient, 2 * values.detach() * weights)
    assert z.abs().max() > 5
    assert loss == 0


def test_bits_count_all_channels():
    assert TokenBridge(16, 64).bits == 96
    assert TokenBridge(4, 8).bits == 12
    assert TokenBridge(3, 5).bits == pytest.approx(3 * math.log2(5))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_a_cast_layer_keeps_its_codes_and_range_and_gives_values_of_its_dtype(dtype):
    z = 0.1 * torch.randn(2, 400, 3) + torch.tensor([-5.03, 0.0, 100.0])
    layer, cast = TokenBridge(3, 64), TokenBridge(3, 64)
    for made in (layer, cast):
        made.fit_range(z)
    cast.to(dtype)
    assert torch.equal(cast.encode(z), layer.encode(z))
    assert cast.state_dict().keys() == layer.state_dict().keys() == {"low", "high"}
    assert all(torch.equal(a, b) for a, b in zip(cast.state_dict().values(), layer.state_dict().values(), strict=True))
    assert torch.equal(cast(z).values, layer(z).values.to(dtype))
    assert torch.equal(cast.float()(z).values, layer(z).values)


@pytest.mark.parametrize("levels", [2, 4, 64])
def test_of_two_equally_near_values_the_lower_is_taken(levels):
    layer = TokenBridge(1, levels)
    assert layer.values[levels // 2 - 1] == -layer.values[levels // 2]
    assert layer.encode(torch.zeros(1, 1, 1)).item() == levels // 2 - 1


def waves(side, *frequencies):
    """Maps that hold one wave a channel, of so many cycles a side along both axes, on top of a mean."""
    at = torch.arange(side) / side
    maps = [(2 * torch.pi * (fy * at[:, None] + fx * at)).cos() + 5 for fy, fx in frequencies]
    return torch.stack(maps, -1).reshape(1, side * side, len(frequencies))


def test_smooth_channels_come_first():
    assert frequency_order(waves(8, (0, 3), (1, 0), (2, 2), (0, 2), (4, 4))) == [1, 3, 2, 0, 4]
    noise = torch.randn(50, 49, 1)
    smooth = noise.view(50, 7, 7).cumsum(1).cumsum(2).reshape(50, 49, 1)
    assert frequency_order(torch.cat([noise, smooth], -1)) == [1, 0]
    assert frequency_order(torch.ones(2, 1, 3)) == [0, 1, 2]


def test_the_mean_frequency_is_that_of_power_by_its_distance():
    side, at = 16, torch.arange(16) / 16
    low, high = ((2 * torch.pi * f * at).cos() for f in (1, 7))
    # Powers 9 : 1 at 1 and 7 cycles a side: 1.6 on the mean. Amplitudes 3 : 1 would say 2.5, squares of cycles 2.4.
    mixed, one, two = 3 * low + high, (2 * torch.pi * 2 * at).cos(), (2 * torch.pi * 4 * at).cos()
    maps = torch.stack([one, mixed, low], -1)[None].expand(side, -1, -1).reshape(1, -1, 3)
    assert frequency_order(maps) == [2, 1, 0]
    # Powers 1 : 1 at 2 and 4 are 3 on the mean; the root of the mean of squares is 3.16.
    three = (2 * torch.pi * 3 * at).cos()
    between = torch.stack([three, one + two * 1.05, one + two * 0.95], -1)[None].expand(side, -1, -1).reshape(1, -1, 3)
    assert frequency_order(between) == [2, 0, 1]


@pytest.mark.parametrize("mean", [5.0, 1e4, -1e6])
def test_the_mean_of_a_map_counts_nothing_in_its_order(mean):
    maps = waves(8, (0, 3), (1, 0), (2, 2), (0, 2), (4, 4))
    assert frequency_order(maps + mean * torch.tensor([1.0, 0.0, 0.0, 0.0, 1.0])) == [1, 3, 2, 0, 4]


def test_a_head_starts_with_even_chances_and_small_embeddings():
    made = ChannelHead(8, 50, 3, width=64)
    assert torch.equal(made(torch.randn(1, 2, 3), torch.zeros(1, 2, 8, dtype=torch.long)), torch.zeros(1, 2, 8, 50))
    for parameter, near in ((made.embeddings, 0.02), (made.places, 0.15)):
        assert parameter.std().item() == pytest.approx(0.02, rel=near)
        assert parameter.abs().max() < 0.12


@pytest.fixture
def head():
    """A head whose weights are all random, so that every input counts."""
    made = ChannelHead(5, 6, 3, order=[3, 0, 4, 1, 2], width=16)
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return made.eval()


def test_a_channel_sees_the_channels_before_it_and_no_other(head):
    condition, codes = torch.randn(2, 3, 3), torch.randint(6, (2, 3, 5))
    before, order = head(condition, codes), [3, 0, 4, 1, 2]
    for place, channel in enumerate(order):
        other = codes.clone()
        other[..., channel] = (codes[..., channel] + 1) % 6
        changed = (head(condition, other) - before).abs().amax((0, 1, 3)) > 1e-6
        assert [c for c in order if changed[c]] == order[place + 1 :]


def test_every_channel_sees_the_condition_of_its_own_position_alone(head):
    condition, codes = torch.randn(2, 3, 3), torch.randint(6, (2, 3, 5))
    other = condition.clone()
    other[1, 2] += 1
    change = (head(other, codes) - head(condition, codes)).abs().amax(3)
    assert (change[1, 2] > 1e-4).all()
    change[1, 2] = 0
    assert change.max() < 1e-5


def test_the_probabilities_of_all_codes_of_a_position_sum_to_one():
    made = ChannelHead(3, 4, 2, order=[1, 2, 0], width=8, layers=1)
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    every = torch.cartesian_prod(*[torch.arange(4)] * 3)[None]
    logits = made(torch.randn(1, 1, 2).expand(1, 64, 2), every).double()
    joint = logits.log_softmax(-1).gather(-1, every[..., None]).sum((2, 3)).exp()
    assert joint.sum().item() == pytest.approx(1, abs=1e-5)


def test_samples_are_distributed_as_forward_says():
    made = ChannelHead(2, 3, 2, order=[1, 0], width=8, layers=1)
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.7)
    condition, n = torch.randn(1, 1, 2), 20_000
    every = torch.cartesian_prod(torch.arange(3), torch.arange(3))[None]
    logits = made(condition.expand(1, 9, 2), every).double()
    joint = logits.log_softmax(-1).gather(-1, every[..., None]).sum((2, 3)).exp()[0]
    drawn = made.sample(condition.expand(1, n, 2), torch.Generator().manual_seed(0))
    counts = (drawn[0] @ torch.tensor([3, 1])).bincount(minlength=9)
    # Six standard deviations: a chance of about 1e-8 for each of nine counts.
    assert ((counts - n * joint).abs() < 6 * (n * joint * (1 - joint)).sqrt() + 1).all()


def test_one_seed_gives_one_sample(head):
    condition = torch.randn(2, 4, 3)
    first, again, other = (head.sample(condition, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert first.shape == (2, 4, 5)


@pytest.mark.usefixtures("unchecked")
def test_training_finds_what_one_channel_says_of_the_next():
    # The second channel repeats the first; alone, each is even among four codes.
    codes = torch.randint(4, (1, 128, 1)).expand(1, 128, 2)
    bits = {}
    for name, seen in {"in turn": codes, "alone": torch.zeros_like(codes)}.items():
        torch.manual_seed(0)
        made = ChannelHead(2, 4, 1, width=16, layers=1)
        optimizer = torch.optim.Adam(made.parameters(), 1e-2)
        for _ in range(60):
            optimizer.zero_grad()
            loss = torch.nn.functional.cross_entropy(made(torch.ones(1, 128, 1), seen).flatten(0, 2), codes.flatten())
            loss.backward()
            optimizer.step()
        bits[name] = loss.item() / math.log(2)
    assert bits["in turn"] == pytest.approx(1, abs=0.1)
    assert bits["alone"] == pytest.approx(2, abs=0.1)


@pytest.mark.parametrize("change", [{"width": 24}, {"layers": 3}, {"levels": 7}, {"condition": 4}, {"d": 6}])
def test_every_size_changes_the_parameters(change):
    def count(d=5, levels=6, condition=3, width=16, layers=2):
        return sum(p.numel() for p in ChannelHead(d, levels, condition, width=width, layers=layers).parameters())

    assert count(**change) > count()


@pytest.mark.parametrize("shape", [(0, 4), (2, 0), (1, 1)])
@pytest.mark.parametrize("d", [1, 3])
def test_a_head_takes_any_number_of_positions_and_one_channel(shape, d):
    made = ChannelHead(d, 4, 2, width=8, layers=1)
    condition = torch.randn(*shape, 2)
    codes = made.sample(condition)
    assert codes.shape == (*shape, d)
    assert made(condition, codes).shape == (*shape, d, 4)


def test_a_bfloat16_head_gives_nearly_the_logits_of_a_float32_one(head):
    condition, codes = torch.randn(2, 3, 3), torch.randint(6, (2, 3, 5))
    expected = head(condition, codes)
    found = head.bfloat16()(condition.bfloat16(), codes)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), expected, atol=0.2, rtol=0.05)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: TokenBridge(0), "d=0 came, expected at least 1"),
        (lambda: TokenBridge(2, 1), "levels=1 came, expected 2 to 740"),
        (lambda: TokenBridge(2, 741), "levels=741 came"),
        (lambda: TokenBridge(2, 8, low=3, high=3), "low=3 and high=3 came, expected two finite numbers"),
        (lambda: TokenBridge(2, 8, low=-math.inf), "low=-inf and high=5.0 came"),
        (lambda: TokenBridge(2).encode(torch.zeros(1, 5, 3)), r"z of shape \(1, 5, 3\) came, expected \(b, n, 2\)"),
        (lambda: TokenBridge(2)(torch.full((1, 5, 2), torch.nan)), "z holds NaN or infinity"),
        (lambda: TokenBridge(2, 8).decode(torch.full((1, 5, 2), 8)), "codes from 8 to 8 came, expected 0 to 7"),
        (lambda: TokenBridge(2).fit_range(torch.zeros(1, 5, 3)), r"z of shape \(1, 5, 3\) came"),
        (lambda: TokenBridge(2).fit_range(torch.ones(1, 5, 2)), "z has a channel that does not vary"),
        (lambda: TokenBridge(2).fit_range(torch.randn(0, 5, 2)), "z has a channel that does not vary"),
        (lambda: TokenBridge(2).fit_range(torch.randn(1, 5, 2), spread=0), "spread=0 came, expected a finite number"),
        (lambda: TokenBridge(1).fit_range(8000 + torch.eye(30)[None, :1].mT / 2048, spread=1e-4), "less than float32"),
        (lambda: frequency_order(torch.full((1, 4, 2), torch.nan)), "z holds NaN or infinity"),
        (
            lambda: frequency_order(torch.randn(2, 5, 3)),
            r"z of shape \(2, 5, 3\) came, expected maps of n = side x side",
        ),
        *((lambda shape=shape: frequency_order(torch.zeros(shape)), "expected maps") for shape in EMPTY),
        (lambda: ChannelHead(3, 4, 2, order=[0, 1, 1]), r"order=\[0, 1, 1\] came, expected each of 0 to 2 once"),
        (lambda: ChannelHead(3, 4, 0), "condition=0, width=64 and layers=2 came, expected at least 1 of each"),
        (lambda: ChannelHead(3, 4, 2, width=20), "width=20 and layers=2 came, expected at least 1 of each and a width"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_bad_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize(
    ("condition", "codes", "message"),
    [
        (torch.zeros(2, 3, 4), torch.zeros(2, 3, 5, dtype=torch.long), r"condition of shape \(2, 3, 4\) came"),
        (torch.zeros(6, 3), torch.zeros(2, 3, 5, dtype=torch.long), r"condition of shape \(6, 3\) came"),
        (torch.zeros(3, 2, 3), torch.zeros(2, 3, 5, dtype=torch.long), "expected equal b and n"),
        (torch.full((2, 3, 3), torch.inf), torch.zeros(2, 3, 5, dtype=torch.long), "condition holds NaN or infinity"),
        (torch.zeros(2, 3, 3), torch.zeros(2, 3, 4, dtype=torch.long), r"codes of shape \(2, 3, 4\) came"),
        (torch.zeros(2, 3, 3), torch.full((2, 3, 5), 6), "codes from 6 to 6 came, expected 0 to 5"),
        (torch.zeros(2, 3, 3), torch.zeros(2, 3, 5), "codes of type torch.float32 came"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_bad_input_of_a_head_is_refused(head, condition, codes, message):
    with pytest.raises(ValueError, match=message):
        head(condition, codes)


def test_no_codes_are_drawn_for_a_condition_that_is_no_number(head):
    with pytest.raises(ValueError, match="condition holds NaN or infinity"):
        head.sample(torch.full((2, 3, 3), torch.nan))
