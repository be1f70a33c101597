"""M3's means, its loss and its oracle: by hand, by plain loops, and what is nested in what."""

import pytest
import torch
from torch.testing import assert_close

from minitok.project import LLaVA
from minitok.project.m3 import M3, matryoshka_loss, oracle, pooled, scales


def test_scales_share_out_the_grid():
    assert scales(256) == (256, 64, 16, 4, 1)
    assert scales(576) == (576, 144, 64, 36, 16, 9, 4, 1)
    assert scales(49) == (49, 1)
    assert scales(1) == (1,)


@pytest.mark.parametrize(("n", "k"), [(36, 9), (36, 4), (36, 36), (36, 1), (64, 16)])
def test_each_token_is_the_mean_of_its_square(n, k):
    x = torch.randn(2, n, 3)
    side, few = int(n**0.5), int(k**0.5)
    span = side // few
    found = pooled(x, k)
    assert found.shape == (2, k, 3)
    for token in range(k):
        top, left = token // few * span, token % few * span
        members = [(top + y) * side + left + z for y in range(span) for z in range(span)]
        assert_close(found[:, token], sum(x[:, i] for i in members) / span**2)


def test_coarse_tokens_are_means_of_finer_ones():
    x = torch.randn(2, 256, 3)
    for fine, coarse in ((64, 16), (64, 4), (16, 1)):
        assert_close(pooled(pooled(x, fine), coarse), pooled(x, coarse))
    assert torch.equal(pooled(x, 256), x)


def test_tokens_are_projected_before_they_are_pooled():
    torch.manual_seed(0)
    projector, x = M3(6, 4, n=36).requires_grad_(False), torch.randn(2, 36, 6)
    assert projector.budgets == (36, 9, 4, 1)
    assert isinstance(projector.mlp, LLaVA)
    assert [tuple(weight.shape) for weight in projector.parameters()] == [(4, 6), (4,), (4, 4), (4,)]
    assert torch.equal(projector(x), projector.mlp(x))
    found = projector(x, 9)
    assert_close(found[:, 4], projector.mlp(x[:, [14, 15, 20, 21]]).mean(1))
    assert not torch.allclose(found, projector.mlp(pooled(x, 9)), atol=1e-3)
    assert projector(torch.randn(1, 16, 6), 4).shape == (1, 4, 4)
    assert M3().budgets == (256, 64, 16, 4, 1)
    assert [tuple(weight.shape) for weight in M3().parameters()] == [(192, 192), (192,)] * 2


def test_each_scale_counts_the_same_and_is_asked_once():
    weight, asked = torch.tensor(2.0, requires_grad=True), []

    def loss(k):
        asked.append(k)
        return weight * k

    total = matryoshka_loss(loss, (9, 4, 1))
    assert asked == [9, 4, 1]
    assert_close(total.item(), 2 * 14 / 3)
    (gradient,) = torch.autograd.grad(total, weight)
    assert_close(gradient.item(), 14 / 3)


def test_the_oracle_takes_the_fewest_tokens_that_are_right():
    budgets, generator = (64, 16, 1, 4), torch.Generator().manual_seed(0)
    right = torch.rand(4, 200, generator=generator) < 0.3
    answered, tokens = oracle(right, budgets)
    for row in range(200):
        able = [k for k, good in zip(budgets, right[:, row].tolist(), strict=True) if good]
        assert bool(answered[row]) == bool(able)
        assert int(tokens[row]) == (min(able) if able else 1)
    assert {bool(value) for value in answered} == {True, False}
    assert tokens.dtype == torch.int64


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("k", [0, -4, 2, 9, 100, 1024])
def test_bad_input_is_named(k):
    with pytest.raises(ValueError, match=rf"k={k} of 16 tokens came, expected one of \(16, 4, 1\) of 16"):
        pooled(torch.zeros(1, 16, 2), k)
    with pytest.raises(ValueError, match="k=4 of 17 tokens came"):
        M3(2, 2)(torch.zeros(1, 17, 2), 4)
