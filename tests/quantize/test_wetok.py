import copy
import math

import numpy as np
import pytest
import torch
from torch import nn

from minitok.quantize.lfq import LFQ
from minitok.quantize.wetok import (
    GenerativeDecoder,
    WeTok,
    decoder_loss,
    discriminator_loss,
    group_entropies,
    widened,
)


def by_enumeration(z, groups, temperature):
    """Both sums over groups in numpy, in float64, by the softmax over the sign vectors of each group."""
    rows, total = z.double().reshape(-1, z.shape[-1]).numpy(), np.zeros(2)
    width = rows.shape[1] // groups
    corners = np.array([[2.0 * (code >> i & 1) - 1 for i in range(width)] for code in range(2**width)])
    for k in range(groups):
        part = rows[:, k * width : (k + 1) * width]
        scores = -((part[:, None] - corners) ** 2).sum(-1) / temperature
        q = np.exp(scores - scores.max(1, keepdims=True))
        q /= q.sum(1, keepdims=True)
        for i, p in enumerate((q, q.mean(0, keepdims=True))):
            total[i] += -np.where(p > 0, p * np.log(np.where(p > 0, p, 1)), 0).sum(-1).mean()
    return total


def decoder(d=3):
    return nn.Sequential(nn.Conv2d(d, 5, 3, 1, 1), nn.ReLU(), nn.ConvTranspose2d(5, 1, 4, 2, 1))


def test_two_groups_of_two_bits_by_hand():
    layer = WeTok(4, groups=2, entropy=0.0, commitment=0.5)
    z = torch.tensor([[[0.3, -2.0, -0.1, 0.2], [-1.0, 0.5, 1.0, 1.0]]])
    assert (layer.bits, layer.K) == (4, 4)
    # In each group channel 1 counts 1 and channel 2 counts 2.
    assert layer.encode(z).tolist() == [[[1, 2], [2, 3]]]
    assert layer.decode(torch.tensor([[[3, 0]]])).tolist() == [[[1.0, 1.0, -1.0, -1.0]]]
    values, codes, loss = layer(z)
    torch.testing.assert_close(values, torch.tensor([[[1.0, -1, -1, 1], [-1, 1, 1, 1]]]))
    assert codes.tolist() == [[[1, 2], [2, 3]]]
    squares = [0.7**2, 1.0, 0.9**2, 0.8**2, 0.0, 0.5**2, 0.0, 0.0]
    assert loss.item() == pytest.approx(0.5 * sum(squares) / 8)


@pytest.mark.parametrize(
    ("entropy", "commitment", "temperature"), [(0.1, 0.25, 0.3), (1.0, 0.0, 0.01), (0.0, 2.0, 5.0)]
)
def test_one_group_is_lfq(entropy, commitment, temperature):
    settings = {"entropy": entropy, "commitment": commitment, "temperature": temperature}
    z = torch.randn(3, 20, 7, requires_grad=True)
    ours, theirs = WeTok(7, 1, **settings)(z), LFQ(7, **settings)(z)
    assert torch.equal(ours.codes, theirs.codes)
    assert torch.equal(ours.values, theirs.values)
    torch.testing.assert_close(ours.loss, theirs.loss, atol=0, rtol=0)
    gradients = [torch.autograd.grad(found.values.sum() + found.loss, z)[0] for found in (ours, theirs)]
    torch.testing.assert_close(*gradients, atol=0, rtol=0)


@pytest.mark.parametrize(("d", "groups"), [(1, 1), (4, 4), (6, 2), (9, 3), (16, 2)])
@pytest.mark.parametrize("temperature", [0.05, 2.0])
def test_entropies_are_those_of_the_full_enumeration(d, groups, temperature):
    z = torch.randn(2, 9, d)
    found = [term.item() for term in group_entropies(z, groups, temperature)]
    assert found == pytest.approx(by_enumeration(z, groups, temperature), abs=1e-5, rel=1e-5)


def test_the_loss_is_the_sum_of_its_weighted_parts():
    z = torch.randn(2, 9, 6)
    sure, even = by_enumeration(z, 3, 2.0)
    square = (z - z.sign()).square().mean().item()
    for entropy, commitment in [(0.1, 0.25), (0.5, 0.0), (0.0, 2.0)]:
        loss = WeTok(6, 3, entropy, commitment, 2.0)(z).loss
        assert loss.item() == pytest.approx(entropy * (sure - even) + commitment * square, abs=1e-5)


def test_groups_leave_the_first_entropy_and_raise_the_second():
    # Correlated channels: finer groups see less of what channels share.
    z = torch.randn(1, 200, 1) + 0.5 * torch.randn(1, 200, 12)
    terms = [group_entropies(z, groups, 1.0) for groups in (1, 2, 4, 12)]
    for sure, _ in terms:
        torch.testing.assert_close(sure, terms[0][0])
    even = [even.item() for _, even in terms]
    assert even == sorted(even)
    assert even[-1] - even[0] > 1
    assert even[-1] <= 12 * math.log(2) + 1e-5


def test_a_group_that_says_nothing_new_is_not_punished_which_lfq_would():
    z = torch.tensor([[[9.0, 9.0], [-9.0, -9.0]]])
    assert [term.item() for term in group_entropies(z, 2)] == pytest.approx([0, 2 * math.log(2)], abs=1e-5)
    assert group_entropies(z, 1)[1].item() == pytest.approx(math.log(2))


def test_each_group_has_a_mean_of_its_own():
    # One group is always 1, the other always 0: each has a single code, both together would look even.
    z = torch.tensor([9.0, -9.0]).expand(1, 5, 2)
    assert group_entropies(z, 2)[1].item() == pytest.approx(0, abs=1e-5)
    together = group_entropies(z.reshape(1, 10, 1), 1)[1]
    assert together.item() == pytest.approx(math.log(2))


@pytest.mark.parametrize(("d", "groups"), [(1, 1), (6, 1), (6, 2), (6, 3), (6, 6)])
def test_codes_of_a_group_depend_on_its_channels_alone(d, groups):
    layer, z, width = WeTok(d, groups), torch.randn(2, 30, d), d // groups
    codes = layer.encode(z)
    for k in range(groups):
        digits = z[..., k * width : (k + 1) * width] > 0
        expected = [int("".join("01"[bit] for bit in row[::-1]), 2) for row in digits.flatten(0, 1).tolist()]
        assert codes[..., k].flatten().tolist() == expected


def test_zero_counts_as_negative():
    assert WeTok(2, 2).encode(torch.tensor([[[0.0, -0.0], [1e-30, -1e-30]]])).tolist() == [[[0, 0], [1, 0]]]


def test_hundreds_of_bits_where_lfq_has_no_room():
    layer, z = WeTok(256, 32), torch.randn(2, 3, 256)
    assert layer.bits == 256
    values, codes, loss = layer(z)
    assert codes.shape == (2, 3, 32)
    assert loss.isfinite()
    assert torch.equal(layer.decode(codes), z.sign())
    assert torch.equal(values, z.sign())


@pytest.mark.parametrize("settings", [{"groups": 4}, {"entropy": 0.7}, {"commitment": 0.7}, {"temperature": 0.7}])
def test_every_argument_changes_the_loss(settings):
    z = torch.randn(2, 9, 16)
    assert abs(WeTok(**settings)(z).loss - WeTok()(z).loss) > 1e-3


def test_the_decoders_gradient_passes_to_the_input_unchanged():
    z, weights = torch.randn(2, 5, 4, requires_grad=True), torch.randn(2, 5, 4)
    values = WeTok(4, 2)(z).values
    (gradient,) = torch.autograd.grad((values**2 * weights).sum(), z)
    torch.testing.assert_close(gradient, 2 * values.detach() * weights)


def test_training_by_the_loss_alone_spreads_each_group_over_its_codes():
    z = (torch.randn(1, 64, 4) * 0.1 + 0.4).requires_grad_()
    optimizer, layer = torch.optim.Adam([z], lr=0.05), WeTok(4, 2, entropy=1.0, commitment=0.1, temperature=1.0)
    assert layer.encode(z).unique().numel() == 1
    for _ in range(200):
        optimizer.zero_grad()
        layer(z).loss.backward()
        optimizer.step()
    codes = layer.encode(z)
    assert [codes[..., k].unique().numel() for k in (0, 1)] == [4, 4]


@pytest.mark.parametrize("how", ["bfloat16 input", "autocast"])
def test_half_precision_gives_the_same_codes_and_nearly_the_same_loss(how):
    layer, z = WeTok(temperature=0.5), torch.randn(2, 9, 16).bfloat16().float()
    expected = layer(z)
    with torch.autocast("cpu", torch.bfloat16, enabled=how == "autocast"):
        values, codes, loss = layer(z if how == "autocast" else z.bfloat16())
    assert torch.equal(codes, expected.codes)
    torch.testing.assert_close(values.float(), expected.values, atol=0.01, rtol=0)
    torch.testing.assert_close(loss.float(), expected.loss, atol=0.01, rtol=0)


@pytest.mark.parametrize("bias", [True, False])
def test_a_widened_convolution_starts_as_it_was_and_reads_what_comes_after(bias):
    conv = nn.Conv2d(3, 5, 3, 1, 1, bias=bias)
    wide, x, more = widened(conv, 2), torch.randn(2, 3, 7, 7), torch.randn(2, 2, 7, 7)
    assert wide.weight.shape == (5, 5, 3, 3)
    torch.testing.assert_close(wide(torch.cat([x, more], 1)), conv(x))
    with torch.no_grad():
        wide.weight[:, 3:] = 1.0
    box = nn.functional.conv2d(more.sum(1, keepdim=True), torch.ones(5, 1, 3, 3), padding=1)
    torch.testing.assert_close(wide(torch.cat([x, more], 1)), conv(x) + box, atol=1e-5, rtol=1e-5)
    assert conv.weight.shape == (5, 3, 3, 3)


def test_a_generative_decoder_starts_as_the_decoder_and_leaves_that_alone():
    trained = decoder()
    before, z_q = copy.deepcopy(trained.state_dict()), torch.randn(2, 3, 7, 7).sign()
    generative = GenerativeDecoder(trained, channels=4)
    torch.testing.assert_close(generative(z_q), trained(z_q))
    optimizer = torch.optim.SGD(generative.parameters(), lr=0.1)
    generative(z_q).square().sum().backward()
    optimizer.step()
    assert all(torch.equal(before[name], weight) for name, weight in trained.state_dict().items())
    assert not torch.equal(generative(z_q), trained(z_q))


def test_noise_is_drawn_anew_unless_it_is_given():
    generative, z_q = GenerativeDecoder(decoder(), channels=2), torch.randn(1, 3, 7, 7).sign()
    nn.init.normal_(next(generative.parameters()))
    assert not torch.allclose(generative(z_q), generative(z_q))
    noise = torch.randn(1, 2, 7, 7)
    torch.testing.assert_close(generative(z_q, noise), generative(z_q, noise), atol=0, rtol=0)
    torch.manual_seed(5)
    drawn = generative(z_q)
    torch.manual_seed(5)
    torch.testing.assert_close(generative(z_q, torch.randn(1, 2, 7, 7)), drawn)


def test_noise_is_normal_at_every_place():
    reads = GenerativeDecoder(nn.Sequential(nn.Conv2d(1, 3, 1, bias=False)), channels=3)
    with torch.no_grad():
        next(reads.parameters()).copy_(torch.eye(4)[1:, :, None, None])
    drawn = reads(torch.zeros(200, 1, 10, 10))
    # 60,000 draws: five standard errors, a tail of 1e-6.
    assert abs(drawn.mean()) < 5 / math.sqrt(60_000)
    assert abs(drawn.square().mean() - 1) < 5 * math.sqrt(2 / 60_000)
    assert abs((drawn[:, 0] * drawn[:, 1]).mean()) < 5 / math.sqrt(20_000)


def test_at_the_start_the_gradients_for_a_noise_and_its_opposite_cancel():
    generative, z_q = GenerativeDecoder(decoder(), channels=2), torch.randn(4, 3, 7, 7).sign()
    noise, weight = torch.randn(4, 2, 7, 7), next(generative.parameters())
    one, other = (
        torch.autograd.grad(generative(z_q, sign * noise).square().sum(), weight)[0][:, 3:] for sign in (1, -1)
    )
    assert one.abs().max() > 1e-3
    torch.testing.assert_close(one, -other)


def test_losses_by_hand_and_their_directions():
    logits = torch.tensor([[-1.0, 0.0], [2.0, 3.0]], requires_grad=True)
    expected = sum(math.log(1 + math.exp(-f)) for f in (-1, 0, 2, 3)) / 4
    assert decoder_loss(logits).item() == pytest.approx(expected)
    (gradient,) = torch.autograd.grad(decoder_loss(logits), logits)
    assert (gradient < 0).all()
    real, fake = torch.tensor([3.0, 0.5, -1.0]), torch.tensor([-2.0, 1.0])
    assert discriminator_loss(real, fake).item() == pytest.approx(((0 + 0.5 + 2) / 3 + (0 + 2) / 2) / 2)
    assert discriminator_loss(torch.tensor([1.0]), torch.tensor([-1.0])) == 0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: WeTok(10, 3), "d=10 and groups=3 came"),
        (lambda: WeTok(0, 1), "d=0 and groups=1 came"),
        (lambda: WeTok(8, 0), "d=8 and groups=0 came"),
        (lambda: WeTok(38, 2), "groups of 19 bits came .*, expected 18: the loss visits all codes"),
        (lambda: WeTok(64, 1, entropy=0.0), "groups of 64 bits came .*, expected 63: a code has 64 bits"),
        (lambda: WeTok(entropy=-0.1), "entropy=-0.1 and commitment=0.25 came"),
        (lambda: WeTok(commitment=math.nan), "commitment=nan came"),
        (lambda: WeTok(temperature=0.0), "temperature=0.0 came, expected a finite number above 0"),
        (lambda: WeTok(temperature=math.inf), "temperature=inf came"),
        (lambda: WeTok(entropy=math.inf), "entropy=inf and commitment=0.25 came"),
        (lambda: WeTok(commitment=math.inf), "commitment=inf came"),
        (lambda: WeTok(6, 2).encode(torch.zeros(2, 5, 4)), r"z of shape \(2, 5, 4\) came, expected \(b, n, 6\)"),
        (lambda: WeTok(6, 2).decode(torch.zeros(1, 1, 3).long()), r"expected \(b, n, 2\)"),
        (lambda: WeTok(6, 2).decode(torch.tensor([[[0, 8]]])), "codes from 0 to 8 came, expected 0 to 7"),
        (lambda: GenerativeDecoder(nn.Sequential(nn.ReLU())), "decoder begins with ReLU"),
        (lambda: GenerativeDecoder(nn.Sequential(nn.Conv2d(4, 4, 1, groups=2))), "of one group"),
        (lambda: GenerativeDecoder(decoder(), channels=0), "channels=0 came"),
        (lambda: GenerativeDecoder(decoder(), 2)(torch.zeros(1, 3, 7, 7), torch.zeros(1, 3, 7, 7)), "noise of shape"),
        (lambda: GenerativeDecoder(decoder(), 2)(torch.full((1, 3, 7, 7), torch.inf)), "z_q holds NaN or infinity"),
        (
            lambda: GenerativeDecoder(decoder(), 2)(torch.zeros(1, 3, 7, 7), torch.full((1, 2, 7, 7), torch.nan)),
            "noise holds NaN or infinity",
        ),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_bad_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
