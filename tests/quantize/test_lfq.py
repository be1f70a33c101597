import itertools
import math

import numpy as np
import pytest
import torch

from minitok.quantize.lfq import LFQ, code_probabilities, entropies, mean_code_probabilities


def corners(d):
    """All sign vectors in the order of their codes, from the binary digits that Python writes."""
    return torch.tensor([[1.0 if bit == "1" else -1.0 for bit in f"{code:0{d}b}"[::-1]] for code in range(2**d)])


def by_enumeration(z, temperature):
    """Both entropies in numpy, in float64, by the softmax over all sign vectors."""
    d, z = z.shape[-1], z.double().reshape(-1, z.shape[-1]).numpy()
    scores = -((z[:, None] - corners(d).double().numpy()) ** 2).sum(-1) / temperature
    q = np.exp(scores - scores.max(1, keepdims=True))
    q /= q.sum(1, keepdims=True)

    def H(q):
        return -np.where(q > 0, q * np.log(np.where(q > 0, q, 1)), 0).sum(-1)

    return H(q).mean(), H(q.mean(0))


def test_three_bits_by_hand():
    layer = LFQ(3, entropy=0.0, commitment=0.5)
    z = torch.tensor([[[0.3, -2.0, -0.1], [-1.0, 0.5, -1.0], [-0.2, -0.3, 4.0], [2.0, 1.0, 0.5]]])
    assert layer.bits == 3
    # Channel 1 counts 1, channel 2 counts 2, channel 3 counts 4.
    assert layer.encode(z).tolist() == [[[1], [2], [4], [7]]]
    assert layer.decode(torch.tensor([[[6], [0]]])).tolist() == [[[-1.0, 1.0, 1.0], [-1.0, -1.0, -1.0]]]
    values, codes, loss = layer(z)
    signs = torch.tensor([[[1.0, -1, -1], [-1, 1, -1], [-1, -1, 1], [1, 1, 1]]])
    torch.testing.assert_close(values, signs)
    squares = [0.7**2, 1.0, 0.9**2, 0.0, 0.5**2, 0.0, 0.8**2, 0.7**2, 3.0**2, 1.0, 0.0, 0.5**2]
    assert loss.item() == pytest.approx(0.5 * sum(squares) / 12)


def test_zero_counts_as_negative():
    layer, z = LFQ(2, entropy=0.0), torch.tensor([[[0.0, -0.0], [1e-30, -1e-30]]])
    assert layer.encode(z).tolist() == [[[0], [1]]]
    assert layer(z).values.tolist() == [[[-1.0, -1.0], [1.0, -1.0]]]


@pytest.mark.parametrize("d", [1, 2, 5, 10])
def test_codes_and_vectors_are_the_binary_digits_of_numbers(d):
    layer, codes = LFQ(d), torch.arange(2**d)[None, :, None]
    torch.testing.assert_close(layer.decode(codes)[0], corners(d), atol=0, rtol=0)
    assert torch.equal(layer.encode(3 * corners(d)[None]), codes)


@pytest.mark.parametrize("d", [1, 3, 8])
def test_the_code_is_that_of_the_nearest_corner(d):
    z = torch.randn(2, 30, d)
    expected = torch.cdist(z, corners(d).expand(2, -1, -1)).argmin(-1)
    assert torch.equal(LFQ(d).encode(z)[..., 0], expected)


def test_63_bits_need_no_codebook():
    layer, z = LFQ(63, entropy=0.0), torch.ones(1, 1, 63)
    assert layer.encode(z).item() == 2**63 - 1
    z[..., 5] = -1
    assert layer.encode(z).item() == 2**63 - 1 - 2**5
    assert torch.equal(layer.decode(layer.encode(z)), z)
    assert sum(t.numel() for t in [*layer.parameters(), *layer.state_dict().values()]) == 0


def test_up_to_18_bits_every_code_is_visited_by_the_loss():
    layer = LFQ(18, temperature=4.0)
    sure, spread = entropies(torch.zeros(1, 2, 18))
    assert (sure.item(), spread.item()) == pytest.approx((18 * math.log(2),) * 2, rel=1e-5)
    assert layer(torch.randn(1, 2, 18)).loss.isfinite()


def test_the_probability_of_a_code_is_the_product_of_its_bits():
    p = torch.rand(4, 3, dtype=torch.float64)
    for bits in itertools.product((0, 1), repeat=3):
        code = sum(bit << i for i, bit in enumerate(bits))
        product = math.prod(p[2, i].item() if bit else 1 - p[2, i].item() for i, bit in enumerate(bits))
        assert code_probabilities(p)[2, code].item() == pytest.approx(product, rel=1e-12)


@pytest.mark.parametrize("d", [1, 2, 7, 10])
@pytest.mark.parametrize("temperature", [0.05, 1.0, 5.0])
def test_independent_bits_give_the_softmax_over_all_codes(d, temperature):
    z = torch.randn(40, d, dtype=torch.float64)
    expected = (-(torch.cdist(z, corners(d).double()) ** 2) / temperature).softmax(-1)
    p = torch.sigmoid(4 * z / temperature)
    torch.testing.assert_close(code_probabilities(p), expected, atol=1e-9, rtol=0)
    torch.testing.assert_close(mean_code_probabilities(p), expected.mean(0), atol=1e-9, rtol=0)


@pytest.mark.parametrize("d", [1, 3, 8, 12])
@pytest.mark.parametrize("temperature", [0.01, 0.5, 4.0])
@pytest.mark.parametrize("scale", [0.02, 1.0])
def test_entropies_are_those_of_the_full_enumeration(d, temperature, scale):
    z = torch.randn(3, 7, d) * scale
    sure, spread = entropies(z, temperature)
    expected = by_enumeration(z, temperature)
    assert sure.item() == pytest.approx(expected[0], abs=1e-5, rel=1e-5)
    assert spread.item() == pytest.approx(expected[1], abs=1e-5, rel=1e-5)


def test_the_entropy_of_the_mean_is_at_most_the_sum_over_bits():
    # Two opposite corners: each bit alone is even, yet there are two codes and not eight.
    z = torch.tensor([[[9.0, 9.0, 9.0], [-9.0, -9.0, -9.0]]])
    sure, spread = entropies(z)
    assert sure.item() == pytest.approx(0, abs=1e-6)
    assert spread.item() == pytest.approx(math.log(2))
    assert sum(entropies(z[..., i : i + 1])[1].item() for i in range(3)) == pytest.approx(3 * math.log(2))


def test_entropies_at_their_limits():
    assert [term.item() for term in entropies(torch.zeros(1, 4, 5))] == pytest.approx([5 * math.log(2)] * 2)
    sure, spread = entropies(9 * corners(5)[None])
    assert sure.item() == pytest.approx(0, abs=1e-6)
    assert spread.item() == pytest.approx(5 * math.log(2))
    assert [term.item() for term in entropies(torch.full((1, 4, 5), 1e4), 0.01)] == pytest.approx([0, 0])


def test_the_loss_is_the_sum_of_its_weighted_parts():
    z = torch.randn(2, 9, 4)
    sure, spread = by_enumeration(z, 2.0)
    square = (z - z.sign()).square().mean().item()
    for entropy, commitment in [(0.1, 0.25), (0.5, 0.0), (0.0, 2.0)]:
        loss = LFQ(4, entropy, commitment, 2.0)(z).loss
        assert loss.item() == pytest.approx(entropy * (sure - spread) + commitment * square, abs=1e-5)


@pytest.mark.parametrize("settings", [{"entropy": 0.7}, {"commitment": 0.7}, {"temperature": 0.7}])
def test_every_weight_changes_the_loss(settings):
    z = torch.randn(2, 9, 4)
    assert abs(LFQ(4, **settings)(z).loss - LFQ(4)(z).loss) > 1e-3


@pytest.mark.parametrize("entropy", [0.0, 0.3])
def test_the_gradients_of_the_loss_are_those_of_finite_differences(entropy):
    layer, z = LFQ(3, entropy, 0.2, temperature=1.0), torch.randn(1, 5, 3)
    z = torch.where(z.abs() < 0.1, 0.5, z).requires_grad_()
    (gradient,) = torch.autograd.grad(layer(z).loss, z)
    for index in itertools.product([0], range(5), range(3)):
        ends = []
        for step in (1e-4, -1e-4):
            moved = z.detach().double().clone()
            moved[index] += step
            sure, spread = by_enumeration(moved, 1.0)
            ends.append(entropy * (sure - spread) + 0.2 * (moved - moved.sign()).square().mean().item())
        assert gradient[index].item() == pytest.approx((ends[0] - ends[1]) / 2e-4, abs=1e-4)


def test_the_decoders_gradient_passes_to_the_input_unchanged():
    z, weights = torch.randn(2, 5, 4, requires_grad=True), torch.randn(2, 5, 4)
    values = LFQ(4)(z).values
    (gradient,) = torch.autograd.grad((values**2 * weights).sum(), z)
    torch.testing.assert_close(gradient, 2 * values.detach() * weights)


def test_gradients_stay_finite_where_probabilities_are_zero():
    z = torch.tensor([[[300.0, -300.0, 1e-3], [1e-6, 0.0, -1e4]]], requires_grad=True)
    (gradient,) = torch.autograd.grad(LFQ(3, temperature=0.01)(z).loss, z)
    assert gradient.isfinite().all()


@pytest.mark.usefixtures("unchecked")
def test_training_by_the_loss_alone_spreads_vectors_over_all_codes():
    z = (torch.randn(1, 64, 3) * 0.1 + 0.4).requires_grad_()
    optimizer, layer = torch.optim.Adam([z], lr=0.05), LFQ(3, entropy=1.0, commitment=0.1, temperature=1.0)
    assert len(layer.encode(z).unique()) < 3
    for _ in range(200):
        optimizer.zero_grad()
        layer(z).loss.backward()
        optimizer.step()
    assert len(layer.encode(z).unique()) == 8
    alone = (torch.randn(1, 64, 3) * 0.1 + 0.4).requires_grad_()
    LFQ(3, entropy=0.0)(alone).loss.backward()
    assert (alone.grad[alone < 1] < 0).float().mean() > 0.9


@pytest.mark.parametrize("how", ["bfloat16 input", "autocast"])
def test_half_precision_gives_the_same_codes_and_nearly_the_same_loss(how):
    layer, z = LFQ(8, temperature=0.5), torch.randn(2, 9, 8).bfloat16().float()
    expected = layer(z)
    with torch.autocast("cpu", torch.bfloat16, enabled=how == "autocast"):
        values, codes, loss = layer(z if how == "autocast" else z.bfloat16())
    assert torch.equal(codes, expected.codes)
    torch.testing.assert_close(values.float(), expected.values, atol=0.01, rtol=0)
    torch.testing.assert_close(loss.float(), expected.loss, atol=0.01, rtol=0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: LFQ(0), "d=0 came, expected 1 to 63"),
        (lambda: LFQ(64, entropy=0.0), "d=64 came"),
        (lambda: LFQ(19), "d=19 came with entropy=0.1, expected at most 18"),
        (lambda: LFQ(4, entropy=-0.1), "entropy=-0.1 and commitment=0.25 came"),
        (lambda: LFQ(4, commitment=math.nan), "commitment=nan came"),
        (lambda: LFQ(4, temperature=0.0), "temperature=0.0 came, expected a finite number above 0"),
        (lambda: LFQ(temperature=math.inf), "temperature=inf came"),
        (lambda: LFQ(entropy=math.inf), "entropy=inf and commitment=0.25 came"),
        (lambda: LFQ(commitment=math.inf), "commitment=inf came"),
        (lambda: LFQ(3).encode(torch.zeros(2, 5, 4)), r"z of shape \(2, 5, 4\) came, expected \(b, n, 3\)"),
        (lambda: LFQ(3)(torch.full((1, 2, 3), torch.inf)), "z holds NaN or infinity"),
        (lambda: LFQ(3).decode(torch.tensor([[[0], [8]]])), "codes from 0 to 8 came, expected 0 to 7"),
        (lambda: LFQ(3).decode(torch.tensor([[[-1], [7]]])), "codes from -1 to 7 came"),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
