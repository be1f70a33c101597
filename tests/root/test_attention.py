import cmath
import math

import pytest
import torch
from torch import nn

from minitok.attention import Attention, Cache, rotary, visible

CPU = torch.device("cpu")


def turned_by_complex_numbers(x, positions, pairing, base):
    """Each pair of channels as one complex number, times e to the i times its angle."""
    b, h, n, d = x.shape
    out = torch.empty(b, h, n, d, dtype=torch.float64)
    for row in range(b):
        for p in range(n):
            for i in range(d // 2):
                left, right = (i, i + d // 2) if pairing == "half" else (2 * i, 2 * i + 1)
                turn = cmath.exp(1j * float(positions[row % len(positions), p]) / base ** (2 * i / d))
                for head in range(h):
                    z = turn * complex(float(x[row, head, p, left]), float(x[row, head, p, right]))
                    out[row, head, p, left], out[row, head, p, right] = z.real, z.imag
    return out


@pytest.mark.parametrize("pairing", ["half", "interleaved"])
@pytest.mark.parametrize("base", [10_000.0, 100.0])
@pytest.mark.parametrize("rows", [1, 2])
def test_rotary_is_a_product_of_complex_numbers(pairing, base, rows):
    x = torch.randn(2, 3, 5, 8)
    positions = torch.tensor([[0.0, 1.0, 2.5, 7.0, 400.25], [3.0, 0.5, 0.0, 9.0, 1.0]])[:rows]
    expected = turned_by_complex_numbers(x, positions, pairing, base).float()
    torch.testing.assert_close(rotary(x, positions, pairing, base), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("pairing", "expected"), [("half", [-3.0, 2.0, 1.0, 4.0]), ("interleaved", [-2.0, 1.0, 3.0, 4.0])]
)
def test_a_quarter_turn_by_hand(pairing, expected):
    x = torch.tensor([1.0, 2.0, 3.0, 4.0]).view(1, 1, 1, 4)
    found = rotary(x, torch.tensor([[math.pi / 2]]), pairing, base=1e12)
    torch.testing.assert_close(found.flatten(), torch.tensor(expected), rtol=0, atol=1e-5)


@pytest.mark.parametrize("pairing", ["half", "interleaved"])
def test_rotary_knows_distances_only(pairing):
    q, k = torch.randn(1, 2, 1, 16), torch.randn(1, 2, 1, 16)

    def product(at_q, at_k):
        turned = [rotary(x, torch.tensor([[p]]), pairing) for x, p in ((q, at_q), (k, at_k))]
        return (turned[0] * turned[1]).sum(-1)

    torch.testing.assert_close(product(7.5, 3.0), product(104.5, 100.0), rtol=0, atol=1e-4)
    assert (product(7.5, 3.0) - product(8.5, 3.0)).abs().min() > 1e-3
    torch.testing.assert_close(product(5.0, 5.0), (q * k).sum(-1), rtol=0, atol=1e-5)


def test_rotary_keeps_type_and_lengths_in_bfloat16():
    x = torch.randn(1, 2, 6, 8).bfloat16()
    positions = torch.arange(6.0)[None] * 100
    found = rotary(x, positions)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), rotary(x.float(), positions), rtol=0.03, atol=0.03)


def test_rotary_refuses_odd_widths_and_unknown_pairings():
    with pytest.raises(ValueError, match="d=5 is odd"):
        rotary(torch.zeros(1, 1, 2, 5), torch.zeros(1, 2))
    with pytest.raises(ValueError, match="pairing='quarter' is not one of"):
        rotary(torch.zeros(1, 1, 2, 4), torch.zeros(1, 2), "quarter")


@pytest.mark.parametrize(("n", "m"), [(2, 2), (5, 5), (2, 7), (3, 4)])
def test_a_causal_mask_shows_what_came_before(n, m):
    found = visible("causal", n, m, CPU)
    assert found.tolist() == [[key <= m - n + query for key in range(m)] for query in range(n)]


@pytest.mark.parametrize(("mask", "n"), [("full", 4), ("causal", 1)])
def test_no_mask_is_made_where_all_is_seen(mask, n):
    assert visible(mask, n, 4, CPU) is None


@pytest.mark.parametrize("n", [6, 2, 1])
def test_block_numbers_show_their_own_block_and_lower_ones(n):
    blocks = [0, 0, 2, 1, 1, 2]
    found = visible(torch.tensor(blocks), n, 6, CPU)
    assert found.tolist() == [[blocks[key] <= blocks[query] for key in range(6)] for query in range(6 - n, 6)]


def test_booleans_are_taken_as_they_are():
    mask = torch.rand(2, 1, 3, 4) < 0.5
    assert visible(mask, 3, 4, CPU) is mask


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        ("casual", "mask='casual' is not 'full'"),
        (torch.zeros(3), r"block numbers of shape \(3,\) came for 4 positions"),
        (torch.zeros(4, 4), r"block numbers of shape \(4, 4\)"),
        (torch.ones(4, 4, dtype=torch.bool), r"shape \(4, 4\) came for 2 queries and 4 keys"),
    ],
)
def test_wrong_masks_are_refused(mask, message):
    with pytest.raises(ValueError, match=message):
        visible(mask, 2, 4, CPU)


def test_a_cache_holds_what_came_in_each_layer():
    cache, parts = Cache(), torch.randn(3, 2, 1, 2, 3, 4)  # three calls, keys and values, b h n d
    assert len(cache) == 0
    for layer in (0, 1):
        for keys, values in parts:
            found = cache.extend(layer, keys + layer, values - layer)
    assert len(cache) == 9
    for layer in (0, 1):
        assert torch.equal(cache.layers[layer][0], torch.cat(list(parts[:, 0]), dim=2) + layer)
        assert torch.equal(cache.layers[layer][1], torch.cat(list(parts[:, 1]), dim=2) - layer)
    assert all(torch.equal(a, b) for a, b in zip(found, cache.layers[1], strict=True))


@pytest.mark.parametrize("positions", [slice(2), torch.tensor([0, 3, 4])])
def test_a_cache_forgets_all_other_positions(positions):
    cache = Cache()
    keys, values = torch.randn(2, 1, 2, 5, 4)
    for layer in range(2):
        cache.extend(layer, keys + layer, values)
    cache.keep(positions)
    kept = [0, 1] if isinstance(positions, slice) else [0, 3, 4]
    assert len(cache) == len(kept)
    for layer in range(2):
        assert cache.layers[layer][0].tolist() == [[(keys + layer)[0, h, kept].tolist() for h in range(2)]]
        assert cache.layers[layer][1].tolist() == [[values[0, h, kept].tolist() for h in range(2)]]


def looped(layer, x, positions, seen):
    """Attention head by head and query by query, with softmax written out."""
    b, n, _ = x.shape
    d, group = layer.d, layer.heads // layer.kv_heads
    q, k, v = (linear(x).unflatten(-1, (-1, d)).transpose(1, 2) for linear in (layer.query, layer.key, layer.value))
    if layer.pairing is not None:
        q, k = (turned_by_complex_numbers(t, positions, layer.pairing, layer.base).float() for t in (q, k))
    rows = torch.zeros(b, n, layer.heads * d)
    for row in range(b):
        for h in range(layer.heads):
            for i in range(n):
                keys = [j for j in range(n) if seen is None or seen[i, j]]
                weights = [math.exp(float(q[row, h, i] @ k[row, h // group, j]) / math.sqrt(d)) for j in keys]
                mixed = sum(w * v[row, h // group, j] for w, j in zip(weights, keys, strict=True))
                rows[row, i, h * d : (h + 1) * d] = mixed / sum(weights)
    return rows @ layer.out.weight.T


@pytest.mark.parametrize("kv_heads", [None, 2, 1])
@pytest.mark.parametrize("pairing", ["half", "interleaved", None])
@pytest.mark.parametrize("masked", [False, True])
def test_attention_is_a_plain_loop_over_heads(kv_heads, pairing, masked):
    layer = Attention(16, 4, kv_heads, pairing, base=50.0)
    x, positions = torch.randn(2, 5, 16), torch.tensor([[0.0, 1.0, 3.5, 4.0, 9.0]])
    seen = (torch.rand(5, 5) < 0.5) | torch.eye(5, dtype=torch.bool) if masked else None
    with torch.no_grad():
        torch.testing.assert_close(layer(x, positions, seen), looped(layer, x, positions, seen), rtol=0, atol=1e-5)


def test_attention_without_groups_is_torchs_with_its_gradients():
    ours, theirs = Attention(12, 3, pairing=None), nn.MultiheadAttention(12, 3, bias=False, batch_first=True)
    with torch.no_grad():
        theirs.in_proj_weight.copy_(torch.cat([ours.query.weight, ours.key.weight, ours.value.weight]))
        theirs.out_proj.weight.copy_(ours.out.weight)
    x, positions = torch.randn(2, 7, 12, requires_grad=True), torch.zeros(1, 7)
    y, (expected, _) = ours(x, positions), theirs(x, x, x, need_weights=False)
    torch.testing.assert_close(y, expected, rtol=0, atol=1e-5)
    back = torch.randn_like(y)
    mine = torch.autograd.grad(y, [x, ours.key.weight], back)
    torch_s = torch.autograd.grad(expected, [x, theirs.in_proj_weight], back)
    torch.testing.assert_close(mine, (torch_s[0], torch_s[1][12:24]), rtol=0, atol=1e-5)


@pytest.mark.parametrize("kv_heads", [None, 2])
@pytest.mark.parametrize("kind", [None, "booleans", "bias"])
def test_the_map_times_the_values_is_what_forward_gives(kv_heads, kind):
    layer, x, positions = Attention(16, 4, kv_heads), torch.randn(2, 6, 16), torch.arange(6.0)[None]
    seen = {None: None, "booleans": torch.ones(6, 6).tril().bool(), "bias": torch.randn(2, 1, 1, 6)}[kind]
    with torch.no_grad():
        weights, keys = layer.map(x, positions, seen)
        values = layer.value(x).unflatten(-1, (-1, 4)).transpose(1, 2)
        mixed = weights @ torch.cat([values[:, [h * layer.kv_heads // 4]] for h in range(4)], dim=1)
        torch.testing.assert_close(layer.out(mixed.transpose(1, 2).flatten(2)), layer(x, positions, seen))
        turned = turned_by_complex_numbers(layer.key(x).unflatten(-1, (-1, 4)).transpose(1, 2), positions, "half", 1e4)
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 4, 6))
    torch.testing.assert_close(keys, turned.float(), rtol=0, atol=1e-5)


def test_a_bias_of_log_2_weighs_like_two_equal_keys():
    layer, x = Attention(8, 2), torch.randn(1, 3, 8)
    bias = torch.tensor([0.0, math.log(2), 0.0]).view(1, 1, 1, 3)
    twice, positions = x[:, [0, 1, 1, 2]], torch.tensor([[0.0, 1.0, 1.0, 2.0]])
    with torch.no_grad():
        expected = layer(twice, positions)[:, [0, 1, 3]]
        torch.testing.assert_close(layer(x, torch.arange(3.0)[None], bias), expected, rtol=0, atol=1e-6)


def test_attention_in_bfloat16_is_near_that_in_float32():
    layer, x, positions = Attention(32, 4, 2), torch.randn(1, 9, 32), torch.arange(9.0)[None]
    with torch.no_grad():
        expected = layer(x, positions)
        found = layer.bfloat16()(x.bfloat16(), positions)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), expected, rtol=0.05, atol=0.02)


@pytest.mark.parametrize(("width", "heads", "kv_heads"), [(10, 4, None), (16, 4, 3), (16, 4, 0), (16, 4, 8)])
def test_sizes_that_do_not_divide_are_refused(width, heads, kv_heads):
    with pytest.raises(ValueError, match=f"width={width}, heads={heads} and kv_heads="):
        Attention(width, heads, kv_heads)


def test_positions_with_two_axes_turn_half_of_the_channels_each():
    x, rows, columns = torch.randn(2, 3, 5, 8), torch.arange(5.0)[None], torch.arange(5.0).flip(0)[None] * 2
    turned = rotary(x, torch.stack([rows, columns], -1))
    expected = torch.cat([rotary(x[..., :4], rows), rotary(x[..., 4:], columns)], -1)
    torch.testing.assert_close(turned, expected)
    assert not torch.allclose(turned[..., 4:], rotary(x, rows)[..., 4:])


def test_channels_that_do_not_share_out_among_axes_are_refused():
    with pytest.raises(ValueError, match="d=8 channels do not share out among 3 axes"):
        rotary(torch.zeros(1, 1, 2, 8), torch.zeros(1, 2, 3))
