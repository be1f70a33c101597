import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from minitok.nn import MLP, Block, Cache, LayerNorm, RMSNorm, Shape, Transformer


def small(lively=True, **sizes):
    """A Transformer whose weights are large enough for every dependence to be seen."""
    model = Transformer(Shape(**{"width": 16, "layers": 3, "heads": 4} | sizes)).eval()
    for weight in model.parameters():
        if lively and weight.dim() == 2:
            nn.init.normal_(weight, std=0.4)
    return model.requires_grad_(False)


NORMS = {RMSNorm: nn.RMSNorm, LayerNorm: nn.LayerNorm}


@pytest.mark.parametrize("kind", NORMS)
@pytest.mark.parametrize("eps", [1e-5, 0.1])
def test_norms_are_torchs_with_their_gradients(kind, eps):
    ours, theirs = kind(6, eps), NORMS[kind](6, eps)
    with torch.no_grad():
        for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
            b.copy_(a.normal_())
    x = torch.randn(2, 3, 6, requires_grad=True) * 3 + 1
    y, expected = ours(x), theirs(x)
    torch.testing.assert_close(y, expected, rtol=1e-5, atol=1e-5)
    back = torch.randn_like(y)
    torch.testing.assert_close(
        torch.autograd.grad(y, [x, *ours.parameters()], back),
        torch.autograd.grad(expected, [x, *theirs.parameters()], back),
        rtol=1e-4,
        atol=1e-4,
    )


@pytest.mark.parametrize("kind", NORMS)
def test_norms_of_bfloat16_are_torchs(kind):
    x = (torch.randn(4, 256) * 10 + 3).bfloat16()
    found = kind(256).bfloat16()(x)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), NORMS[kind](256, 1e-5)(x.float()), rtol=0.01, atol=0.01)


def test_norms_by_hand():
    x = torch.tensor([[1.0, 7.0]])  # mean 4, deviation 3, root mean square 5
    torch.testing.assert_close(RMSNorm(2, 0.0)(x), torch.tensor([[0.2, 1.4]]))
    torch.testing.assert_close(LayerNorm(2, 0.0)(x), torch.tensor([[-1.0, 1.0]]))


def test_the_feed_forward_part_by_hand():
    mlp = MLP(1, 2)
    with torch.no_grad():
        for linear, values in ((mlp.gate, [[1.0], [-2.0]]), (mlp.up, [[3.0], [1.0]]), (mlp.out, [[1.0, 10.0]])):
            linear.weight.copy_(torch.tensor(values))
        silu = [z / (1 + math.exp(-z)) for z in (2.0, -4.0)]
        expected = silu[0] * 6 + 10 * silu[1] * 2
        torch.testing.assert_close(mlp(torch.tensor([[2.0]])), torch.tensor([[expected]]))


@pytest.mark.parametrize("condition", [0, 5])
def test_a_block_is_its_formula(condition):
    block, x, e = Block(Shape(8, 1, 2, condition=condition)).requires_grad_(False), torch.randn(2, 3, 8), None
    shift, scale, gate = torch.zeros(2, 2, 1, 8), torch.zeros(2, 2, 1, 8), torch.ones(2, 2, 1, 8)
    if condition:
        e = torch.randn(2, condition)
        six = block.modulation(e * e.sigmoid()).view(2, 2, 3, 1, 8)  # row, part, which, token, channel
        shift, scale, gate = six.permute(2, 1, 0, 3, 4)

    def normed(x, part):
        return F.rms_norm(x, (8,), eps=1e-5) * (1 + scale[part]) + shift[part]

    positions = torch.arange(3.0)[None]
    y = x + gate[0] * block.attention(normed(x, 0), positions)
    z = normed(y, 1)
    y = y + gate[1] * F.linear(F.silu(z @ block.mlp.gate.weight.T) * (z @ block.mlp.up.weight.T), block.mlp.out.weight)
    torch.testing.assert_close(block(x, positions, condition=e), y, rtol=0, atol=1e-5)


def reached(model, x, mask, **given):
    """Which outputs (rows) change when an input (columns) changes."""
    before, columns = model(x, mask, **given), []
    for j in range(x.shape[1]):
        other = x.clone()
        other[:, j] += 3 * torch.randn_like(x[:, j])
        columns.append((model(other, mask, **given) != before).any(-1).any(0))
    return torch.stack(columns, dim=1).int().tolist()


@pytest.mark.parametrize("pairing", ["half", "interleaved", None])
def test_a_causal_mask_hides_what_comes_after(pairing):
    model, x = small(pairing=pairing), torch.randn(2, 6, 16)
    assert reached(model, x, "causal") == [[int(j <= i) for j in range(6)] for i in range(6)]
    assert torch.equal(model(x), model(x, "causal"))


def test_a_full_mask_hides_nothing():
    assert reached(small(), torch.randn(2, 4, 16), "full") == [[1] * 4] * 4


@pytest.mark.parametrize("blocks", [[0, 0, 1, 1, 1, 2], [2, 0, 1, 0, 2, 1], [0, 0, 0, 0, 0, 0]])
def test_a_block_causal_mask_leaks_nothing(blocks):
    found = reached(small(), torch.randn(2, 6, 16), torch.tensor(blocks))
    assert found == [[int(blocks[j] <= blocks[i]) for j in range(6)] for i in range(6)]


def test_a_boolean_mask_is_obeyed():
    mask = torch.eye(5, dtype=torch.bool)
    mask[3, 1] = True
    assert reached(small(), torch.randn(1, 5, 16), mask) == mask.int().tolist()


def test_a_prefix_conditions_all_that_follows_and_is_dropped():
    model, x, prefix = small(), torch.randn(2, 4, 16), torch.randn(2, 3, 16)
    y = model(x, prefix=prefix)
    assert y.shape == (2, 4, 16)
    assert ((model(x, prefix=prefix + 1) - y).abs().amax(-1) > 1e-3).all()
    assert torch.equal(model(torch.cat([prefix, x], 1))[:, 3:], y)
    assert reached(model, x, "causal", prefix=prefix) == [[int(j <= i) for j in range(4)] for i in range(4)]


def test_adaptive_norms_start_with_closed_gates():
    model, x = small(lively=False, condition=5), torch.randn(2, 4, 16)
    y = model(x, condition=torch.randn(2, 5))
    assert torch.equal(y, model(x, condition=100 * torch.randn(2, 5)))
    torch.testing.assert_close(y, F.rms_norm(x, (16,), eps=1e-5))


def test_a_condition_reaches_its_own_row():
    model, x, condition = small(condition=5), torch.randn(2, 4, 16), torch.randn(2, 5)
    other = condition.clone()
    other[1] += 1
    changed = (model(x, condition=other) - model(x, condition=condition)).abs().amax(-1) > 1e-3
    assert changed.tolist() == [[False] * 4, [True] * 4]


@pytest.mark.parametrize("pairing", ["half", "interleaved", None])
@pytest.mark.parametrize("kv_heads", [None, 2, 1])
@pytest.mark.parametrize("chunks", [[1] * 9, [4, 1, 3, 1], [9]])
def test_cached_and_uncached_give_the_same(pairing, kv_heads, chunks):
    model, x, cache = small(pairing=pairing, kv_heads=kv_heads), torch.randn(2, 9, 16), Cache()
    parts = [model(part, cache=cache) for part in x.split(chunks, dim=1)]
    assert len(cache) == 9
    torch.testing.assert_close(torch.cat(parts, 1), model(x), rtol=0, atol=1e-5)


def test_a_cache_holds_the_prefix_and_serves_blocks_and_conditions():
    model, x, prefix = small(condition=3), torch.randn(1, 6, 16), torch.randn(1, 2, 16)
    blocks, condition, cache = torch.tensor([0, 0, 0, 1, 1, 2, 2, 2]), torch.randn(1, 3), Cache()
    whole = model(x, blocks, prefix=prefix, condition=condition)
    first = model(x[:, :3], blocks[:5], prefix=prefix, condition=condition, cache=cache)
    second = model(x[:, 3:], blocks, condition=condition, cache=cache)
    torch.testing.assert_close(torch.cat([first, second], 1), whole, rtol=0, atol=1e-5)


def test_a_cache_goes_on_from_where_it_was_cut():
    model, x, cache = small(), torch.randn(1, 8, 16), Cache()
    model(torch.cat([x[:, :5], torch.randn(1, 3, 16)], 1), cache=cache)
    cache.keep(slice(5))
    torch.testing.assert_close(model(x[:, 5:], cache=cache), model(x)[:, 5:], rtol=0, atol=1e-5)


def test_a_pruned_cache_is_a_mask_on_what_follows():
    model, x, cache, kept = small(), torch.randn(1, 7, 16), Cache(), torch.tensor([0, 2, 4])
    model(x[:, :5], cache=cache)
    cache.keep(kept)
    mask = torch.ones(7, 7).tril().bool()
    mask[5:, [1, 3]] = False
    found = model(x[:, 5:], positions=torch.tensor([[5.0, 6.0]]), cache=cache)
    torch.testing.assert_close(found, model(x, mask)[:, 5:], rtol=0, atol=1e-5)


def test_positions_may_be_given():
    model, x = small(), torch.randn(2, 4, 16)
    torch.testing.assert_close(model(x, positions=torch.arange(4.0)[None] + 50), model(x), rtol=0, atol=1e-4)
    assert (model(x, positions=torch.tensor([[0.0, 2.0, 3.0, 9.0]])) - model(x)).abs().max() > 1e-3


@pytest.mark.parametrize("change", [{"pairing": "interleaved"}, {"pairing": None}, {"base": 7.0}, {"norm": LayerNorm}])
def test_each_choice_of_the_shape_changes_what_comes_out(change):
    model, x = small(), torch.randn(1, 5, 16)
    other = small(**change)
    other.load_state_dict(model.state_dict(), strict=False)
    assert (other(x) - model(x)).abs().max() > 1e-2


def test_sizes_of_the_weights():
    model = Transformer(Shape(12, 2, 3, kv_heads=1, hidden=7, norm=LayerNorm, condition=5))
    block = model.blocks[1]
    assert len(model.blocks) == 2
    assert block.mlp.up.weight.shape == (7, 12)
    assert block.attention.key.weight.shape == (4, 12)
    assert block.modulation.weight.shape == (72, 5)
    assert isinstance(model.norm, LayerNorm)
    assert Block(Shape(12, 1, 3)).mlp.gate.weight.shape == (32, 12)


def test_weights_start_small_and_those_into_the_sum_smaller():
    block = Transformer(Shape(64, 8, 2)).blocks[0]
    assert block.attention.query.weight.std().item() == pytest.approx(0.02, rel=0.1)
    assert block.mlp.out.weight.std().item() == pytest.approx(0.005, rel=0.1)


def test_dropout_acts_in_training_only():
    model, other, x = small(dropout=0.5), small(), torch.randn(1, 4, 16)
    other.load_state_dict(model.state_dict())
    assert torch.equal(model(x), other(x))
    assert torch.equal(other.train()(x), model(x))
    model.train()
    assert (model(x) - model(x)).abs().max() > 1e-2


def test_bfloat16_is_near_float32():
    model, x = small(lively=False), torch.randn(1, 8, 16)
    expected = model(x)
    torch.testing.assert_close(model.bfloat16()(x.bfloat16()).float(), expected, rtol=0.05, atol=0.05)


def test_gradients_reach_every_weight():
    model = small(condition=3).requires_grad_(True)
    model(torch.randn(2, 4, 16), condition=torch.randn(2, 3)).square().sum().backward()
    assert all(weight.grad.abs().max() > 0 for weight in model.parameters())


@pytest.mark.parametrize(
    ("sizes", "given", "message"),
    [
        ({}, {"mask": "casual"}, "mask='casual'"),
        ({}, {"mask": torch.zeros(3)}, "came for 4 positions"),
        ({"condition": 3}, {}, "give condition="),
        ({}, {"condition": torch.zeros(1, 3)}, "no adaptive norm"),
        ({}, {"cache": Cache(), "on_layer": print}, "no cache"),
        ({}, {"prefix": torch.zeros(1, 2, 16), "on_layer": print}, "no prefix"),
        ({}, {"mask": torch.zeros(4), "on_layer": print}, "a named mask"),
        ({"pairing": "quarter"}, {}, "pairing='quarter'"),
    ],
)
def test_wrong_calls_are_refused(sizes, given, message):
    with pytest.raises(ValueError, match=message):
        small(**sizes)(torch.zeros(1, 4, 16), **given)
