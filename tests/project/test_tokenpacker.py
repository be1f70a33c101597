"""TokenPacker by hand, by a plain loop, by torch's own interpolation and attention, and by what a region sees."""

import math

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from minitok.project.tokenpacker import TokenPacker, coarse, regions, stride


def test_a_square_of_four_by_hand():
    # One channel, one head, all matrices 1, no norms: the query is 2.5, the keys are 0, 2, 4, 4.
    packer = TokenPacker(1, 1, layers=(0,), width=1, heads=1, budgets=(1,)).requires_grad_(False)
    for part in (packer.query, packer.key, packer.value):
        part[-1] = nn.Identity()
    for module in (packer.key[0], packer.value[0], packer.mlp):
        module.layers[1] = nn.Identity()
    for name, weight in packer.named_parameters():
        weight.fill_(0.0 if name.endswith("bias") else 1.0)
    x = torch.tensor([1.0, 2.0, 3.0, 4.0]).view(1, 4, 1)
    levels = torch.tensor([0.0, 2.0, 4.0, 4.0]).view(1, 1, 4, 1)
    shares = [math.exp(2.5 * key) for key in (0, 2, 4, 4)]
    expected = (2 * shares[1] + 4 * shares[2] + 4 * shares[3]) / sum(shares)
    assert_close(packer(x, levels=levels).item(), expected)
    # the query is not added, and not the mean of the levels
    packer.query[0].weight.zero_()
    assert_close(packer(x, levels=levels).item(), 2.5)


def test_the_coarse_grid_is_the_middle_of_each_square():
    x = torch.arange(16.0).view(1, 16, 1)
    assert coarse(x, 1).flatten().tolist() == list(range(16))
    assert coarse(x, 2).flatten().tolist() == [(0 + 1 + 4 + 5) / 4, 4.5, 10.5, (10 + 11 + 14 + 15) / 4]
    assert coarse(x * x, 4).item() == (5**2 + 6**2 + 9**2 + 10**2) / 4


def test_of_sixteen_patches_the_middle_four_ask_and_of_nine_the_middle_one():
    for side, middle in ((4, [5, 6, 9, 10]), (3, [4])):
        x = torch.randn(2, 4 * side**2, 3)
        squares = regions(x, side)
        assert_close(coarse(x, side), squares[:, :, middle].mean(2))
    assert coarse(x.bfloat16(), 3).dtype == torch.bfloat16


@pytest.mark.parametrize("s", [1, 2, 3])
def test_regions_by_a_plain_loop(s):
    x = torch.arange(36.0).view(1, 36, 1)
    expected = [
        [6 * (s * i + y) + s * j + z for y in range(s) for z in range(s)] for i in range(6 // s) for j in range(6 // s)
    ]
    assert regions(x, s)[0, ..., 0].tolist() == expected


def reference(packer: TokenPacker, x: torch.Tensor, levels: torch.Tensor, s: int) -> torch.Tensor:
    """Token by token with torch's own attention layer."""
    side, width = math.isqrt(x.shape[1]), packer.out.out_features
    attention = nn.MultiheadAttention(width, packer.heads, batch_first=True)
    into = (packer.to_query, packer.to_key, packer.to_value)
    attention.in_proj_weight = nn.Parameter(torch.cat([part.weight for part in into]))
    attention.in_proj_bias = nn.Parameter(torch.cat([part.bias for part in into]))
    attention.out_proj.weight, attention.out_proj.bias = packer.out.weight, packer.out.bias
    many = torch.cat([levels[:, layer] for layer in packer.layers], -1)
    small = nn.functional.interpolate(x.mT.unflatten(2, (side, side)), scale_factor=1 / s, mode="bilinear")
    tokens = []
    for i in range(side // s):
        for j in range(side // s):
            mine = [side * (s * i + y) + s * j + z for y in range(s) for z in range(s)]
            q = packer.query(small[:, :, i, j])[:, None]
            tokens.append(attention(q, packer.key(many[:, mine]), packer.value(many[:, mine]))[0])
    return packer.mlp(torch.cat(tokens, 1))


@pytest.mark.parametrize(("s", "layers"), [(2, (0, 1)), (3, (2, 1)), (6, (1,)), (1, (0, 0, 2))])
def test_token_by_token_with_torchs_own_attention(s, layers):
    packer = TokenPacker(6, 5, layers=layers, width=8, heads=2, budgets=(36 // s**2,)).requires_grad_(False)
    for weight in packer.parameters():
        weight += torch.randn_like(weight) * 0.3
    x, levels = torch.randn(2, 36, 6), torch.randn(2, 3, 36, 6)
    assert_close(packer(x, levels=levels), reference(packer, x, levels, s))


def test_keys_come_from_the_levels_and_queries_from_the_features():
    packer, x, levels = (
        TokenPacker(6, 5, width=8, heads=2, budgets=(9,)),
        torch.randn(1, 36, 6),
        torch.randn(1, 6, 36, 6),
    )
    whole = packer(x, levels=levels)
    assert not torch.allclose(packer(x + torch.randn(6), levels=levels), whole)
    for layer in range(6):
        changed = levels.clone()
        changed[:, layer] += torch.randn(6)
        assert torch.allclose(packer(x, levels=changed), whole) == (layer < 2)


def test_one_set_of_weights_serves_every_size_of_squares():
    packer, x, levels = TokenPacker(budgets=(256, 64, 16, 4, 1)), torch.randn(1, 256, 192), torch.randn(1, 6, 256, 192)
    assert [packer(x, k, levels=levels).shape[1] for k in packer.budgets] == [256, 64, 16, 4, 1]
    assert packer(x, levels=levels).shape[1] == 256
    assert sum(weight.numel() for weight in TokenPacker().parameters()) == 383_104


def test_norms_are_those_of_the_paper():
    packer = TokenPacker()
    assert [part[-1].eps for part in (packer.query, packer.key, packer.value)] == [1e-6] * 3
    assert packer.query[0].bias is None
    assert (packer.heads, packer.out.out_features, packer.mlp.layers[0].in_features) == (4, 128, 128)


@pytest.mark.usefixtures("unchecked")
def test_bad_input_is_named():
    x, levels = torch.zeros(1, 36, 6), torch.zeros(1, 3, 36, 6)
    with pytest.raises(ValueError, match="heads=3 do not share out width=8"):
        TokenPacker(width=8, heads=3)
    for k in (4, 0):
        with pytest.raises(ValueError, match=rf"k={k} came, expected one of \(9,\)"):
            TokenPacker(6, 5, layers=(2,), width=8, budgets=(9,))(x, k, levels=levels)
    with pytest.raises(ValueError, match=r"levels of 3 layers came, layers=\(2, 3\) asks for more"):
        TokenPacker(6, 5, layers=(2, 3), width=8, budgets=(9,))(x, 9, levels=levels)
    for n, k in ((36, 5), (36, 16), (35, 1), (36, 0), (36, -4)):
        with pytest.raises(ValueError, match=f"k={k} of {n} tokens came"):
            stride(n, k)
