"""LLaVA-Mini: the compressor by a loop over heads, pre-fusion by rows without filling."""

import pytest
import torch
from torch.testing import assert_close

from minitok.nn import Shape
from minitok.project.llava_mini import Compressor, LLaVAMini, grid_positions, stretched
from minitok.vlm import VLM


def lively(module):
    """Weights so large that nothing can hide."""
    with torch.no_grad():
        for weight in module.parameters():
            weight.normal_(std=0.4 if weight.dim() == 2 else 1.0)
    return module.requires_grad_(False)


@pytest.fixture
def method():
    return lively(LLaVAMini(4, 12, 8, depth=2, heads=2, hidden=5))


@pytest.fixture
def words():
    """Embedded words of two rows: one of filling, three asked, one of the answer; and none, four, one."""
    asked = torch.tensor([[0, 1, 1, 1, 0], [1, 1, 1, 1, 0]]).bool()
    return torch.randn(2, 5, 8), asked


@pytest.fixture
def x():
    return torch.randn(2, 16, 12)


def normed(x, norm):
    centred = x - x.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt() * norm.scale + norm.shift


@pytest.mark.parametrize("side", [1, 2])
def test_the_compressor_is_a_loop_over_heads_and_queries(side):
    compressor, x = lively(Compressor(side, 8, heads=2)), torch.randn(3, 16, 8)
    attention = compressor.attention
    values = normed(x, compressor.norm)
    queries = normed(compressor.queries, compressor.norm_queries) + grid_positions(side, 8)
    keys = values + stretched(grid_positions(side, 8), 16)
    (q, k, v), (dq, dk, dv) = attention.in_proj_weight.chunk(3), attention.in_proj_bias.chunk(3)
    q, k, v = queries @ q.T + dq, keys @ k.T + dk, values @ v.T + dv
    gathered = torch.zeros(3, side**2, 8)
    for head in (slice(0, 4), slice(4, 8)):
        for i in range(side**2):
            share = (k[..., head] @ q[i, head] / 2).softmax(-1)
            gathered[:, i, head] = torch.einsum("bn,bnd->bd", share, v[..., head])
    expected = gathered @ attention.out_proj.weight.T + attention.out_proj.bias
    assert_close(compressor(x), expected, atol=1e-4, rtol=1e-4)


def test_one_query_cannot_tell_where_a_patch_is_and_four_can():
    x, order = torch.randn(2, 16, 8), torch.randperm(16)
    one, four = (lively(Compressor(side, 8, heads=2)) for side in (1, 2))
    assert_close(one(x[:, order]), one(x), atol=1e-5, rtol=1e-5)
    assert float((four(x[:, order]) - four(x)).abs().max()) > 1e-3


def test_pre_fusion_is_that_of_each_row_without_its_filling(method, x, words):
    text, asked = words
    few, fused = method.fuse(x, text, asked)
    for row in range(2):
        there = asked[row]
        one = x[row : row + 1]
        y = torch.cat([method.mlp(one), method.mlp(method.compressor(one)), text[row : row + 1, there]], 1)
        for block in method.blocks:
            mask = torch.ones(y.shape[1], y.shape[1]).tril().bool()
            y = block(y, torch.arange(float(y.shape[1]))[None], mask)
        assert_close(few[row], y[0, 16:20], atol=1e-4, rtol=1e-4)
        assert_close(fused[row][there], y[0, 20:], atol=1e-4, rtol=1e-4)
        assert torch.equal(fused[row][~there], text[row][~there])


def test_no_word_sees_the_answer_or_the_filling_and_the_compressed_tokens_see_no_word(method, x, words):
    text, asked = words
    few, fused = method.fuse(x, text, asked)
    changed = text + torch.randn_like(text) * ~asked[..., None]
    assert torch.equal(method.fuse(x, changed, asked)[1][asked], fused[asked])
    later = text.clone()
    later[:, 3] += 1
    few_later, fused_later = method.fuse(x, later, asked)
    assert_close(few_later, few)
    assert_close(fused_later[:, :3], fused[:, :3])
    assert float((fused_later[:, 3] - fused[:, 3]).abs().min()) > 0
    assert_close(method(x), few)


def test_fused_words_see_every_patch(method, x, words):
    text, asked = words
    _, fused = method.fuse(x, text, asked)
    for patch in (0, 15):
        other = x.clone()
        other[:, patch] += 1
        moved = (method.fuse(other, text, asked)[1] - fused).abs().amax(-1)
        assert torch.equal(moved > 0, asked)


def test_the_language_model_reads_compressed_tokens_and_fused_words(method, x, words):
    text, asked = words
    host = lively(VLM(Shape(width=8, layers=2, heads=2), vocabulary=7, size=16))
    codes = torch.randint(7, (2, 5))
    read = method.read(host, x, codes, text=text, asked=asked)
    row = torch.cat(method.fuse(x, text, asked), 1)
    places = torch.cat([host.places(4, row.device)[0], 16 + torch.arange(5.0)])
    assert_close(read, host.lm(row, positions=places[None])[:, 4:], atol=1e-4, rtol=1e-4)


def test_it_begins_with_words_that_are_their_own_and_learns_to_change_them():
    method, text = LLaVAMini(), torch.randn(1, 6, 192)
    few, fused = method.fuse(torch.randn(1, 256, 192), text, torch.ones(1, 6).bool())
    assert torch.equal(fused, text)
    (few.sum() + (fused * torch.randn(192)).sum()).backward()
    (block,) = method.blocks
    for last in (block.attention.out, block.mlp.out):
        assert float(last.weight.grad.abs().max()) > 0


def test_its_sizes_are_those_of_the_card():
    (block,), (k,) = LLaVAMini().blocks, LLaVAMini().budgets
    assert k == 1
    assert block.mlp.gate.out_features == 192
    small = LLaVAMini(depth=2, kv_heads=1, hidden=64)
    assert [(block.attention.key.out_features, block.mlp.gate.out_features) for block in small.blocks] == [(64, 64)] * 2


@pytest.mark.usefixtures("unchecked")
def test_bad_input_is_named(method, x, words):
    for k in (0, 2, -4):
        with pytest.raises(ValueError, match=f"k={k} came, expected a square"):
            LLaVAMini(k)
    with pytest.raises(ValueError, match="k=1 came, expected 4"):
        method(x, 1)
    with pytest.raises(ValueError, match="k=9 came, expected 4"):
        method.read(None, x, None, 9, text=words[0], asked=words[1])
