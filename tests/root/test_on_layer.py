"""Transformer(..., on_layer=): what the callback sees, and what becomes of the tokens that it keeps or merges."""

import pytest
import torch

from minitok.nn import Attention, Shape, Transformer


class Keep:
    """Keeps some tokens, with their sizes."""

    def __init__(self, kept):
        self.kept = kept

    def apply(self, x):
        return x[:, self.kept]

    def sizes(self, size):
        return size[:, self.kept]


class Pairs:
    """Merges each token of even place with the next."""

    def apply(self, x):
        return (x[:, 0::2] + x[:, 1::2]) / 2

    def sizes(self, size):
        return size[:, 0::2] + size[:, 1::2]


class First:
    """Merges the first two tokens."""

    def apply(self, x):
        return torch.cat([x[:, :2].mean(1, keepdim=True), x[:, 2:]], dim=1)

    def sizes(self, size):
        return torch.cat([size[:, :2].sum(1, keepdim=True), size[:, 2:]], dim=1)


class AllButOne:
    """Merges all tokens but the last."""

    def apply(self, x):
        return torch.cat([x[:, :-1].mean(1, keepdim=True), x[:, -1:]], dim=1)

    def sizes(self, size):
        return torch.cat([size[:, :-1].sum(1, keepdim=True), size[:, -1:]], dim=1)


at_once = AllButOne()


def lively(**sizes):
    model = Transformer(Shape(**{"width": 16, "layers": 3, "heads": 4} | sizes)).eval().requires_grad_(False)
    for weight in model.parameters():
        if weight.dim() == 2:
            weight.normal_(std=0.4)
    return model


def at(index, reduction):
    return lambda layer: reduction if layer.index == index else None


def test_it_is_called_in_each_layer_with_what_the_layer_has():
    model, x, seen = lively(kv_heads=2), torch.randn(2, 5, 16), []
    model(x, "full", on_layer=seen.append)
    assert [layer.index for layer in seen] == [0, 1, 2]
    first, attention = seen[0], model.blocks[0].attention
    values = attention.value(model.blocks[0].norm1(x)).unflatten(-1, (2, 4)).transpose(1, 2)
    mixed = first.attention @ values[:, [0, 0, 1, 1]]
    expected = x + mixed.transpose(1, 2).flatten(2) @ attention.out.weight.T
    torch.testing.assert_close(first.hidden, expected, rtol=0, atol=1e-5)
    assert first.keys.shape == (2, 2, 5, 4)
    assert torch.equal(first.size, torch.ones(2, 5))


def written_out(monkeypatch):
    """The layers whose attention is written out from now on."""
    calls, weights = [], Attention.weights

    def counted(self, *given):
        calls.append(self)
        return weights(self, *given)

    monkeypatch.setattr(Attention, "weights", counted)
    return calls


def test_attention_is_written_out_only_where_it_is_looked_at_and_once(monkeypatch):
    model, x, calls = lively(), torch.randn(2, 6, 16), written_out(monkeypatch)
    seen = []
    model(x, "full", on_layer=lambda layer: seen.append((layer.hidden, layer.keys, layer.size)))
    assert calls == []
    model(
        x, "full", on_layer=lambda layer: seen.append(layer.attention is layer.attention) if layer.index == 1 else None
    )
    assert calls == [model.blocks[1].attention]
    assert seen[-1] is True


@pytest.mark.parametrize("mask", ["causal", "full"])
def test_looking_without_reducing_changes_no_bit(mask):
    model, x = lively(kv_heads=2), torch.randn(2, 6, 16)
    assert torch.equal(model(x, mask, on_layer=lambda layer: None), model(x, mask))


def test_sizes_are_counted_exactly_in_half_precision():
    model, seen = lively(layers=10).bfloat16(), []

    def first_ones(layer):
        seen.append(layer.size)
        return First()

    model(torch.randn(1, 11, 16, dtype=torch.bfloat16), "full", on_layer=first_ones)
    assert [float(size[0, 0]) for size in seen] == list(range(1, 11))
    assert all(size.dtype == torch.float32 for size in seen)
    found = model(
        torch.randn(1, 600, 16).bfloat16(),
        "full",
        on_layer=lambda layer: at_once if layer.index == 0 else seen.append(layer.size),
    )
    assert float(seen[-1][0, 0]) == 599
    assert found.dtype == torch.bfloat16


@pytest.mark.parametrize("mask", ["causal", "full"])
@pytest.mark.parametrize("reduction", [None, Keep(slice(None))])
def test_keeping_all_changes_nothing(mask, reduction):
    model, x = lively(), torch.randn(2, 6, 16)
    found = model(x, mask, on_layer=lambda layer: reduction)
    torch.testing.assert_close(found, model(x, mask), rtol=0, atol=1e-5)


@pytest.mark.parametrize("mask", ["causal", "full"])
@pytest.mark.parametrize("index", [0, 1, 2])
def test_kept_tokens_go_on_alone_at_their_old_places(mask, index):
    model, x, kept = lively(), torch.randn(2, 6, 16), [0, 2, 5]
    y, places = x, torch.arange(6.0)
    for i, block in enumerate(model.blocks):
        n = len(places)
        y = block(y, places[None], torch.ones(n, n).tril().bool() if mask == "causal" else None)
        if i == index:  # the rest of the layer looks at each token alone, so one may also keep after it
            y, places = y[:, kept], places[kept]
    found = model(x, mask, on_layer=at(index, Keep(kept)))
    torch.testing.assert_close(found, model.norm(y), rtol=0, atol=1e-5)


@pytest.mark.parametrize("kv_heads", [None, 2])
@pytest.mark.parametrize("condition", [0, 3])
@pytest.mark.parametrize("index", [0, 1])
def test_a_token_of_size_2_attends_and_is_attended_like_two_equal_ones(kv_heads, condition, index):
    model = lively(kv_heads=kv_heads, condition=condition)
    x = torch.randn(2, 4, 16)[:, [0, 0, 1, 2, 3]]
    given = {"positions": torch.tensor([[0.5, 0.5, 1.5, 2.0, 7.0]])}
    given |= {"condition": torch.randn(2, 3)} if condition else {}
    expected = model(x, "full", **given)[:, 1:]
    found = model(x, "full", on_layer=at(index, First()), **given)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_sizes_and_places_follow_the_merging():
    model, x, sizes = lively(), torch.randn(1, 8, 16), []

    def halve_twice(layer):
        sizes.append(layer.size[0].tolist())
        return Pairs() if layer.index < 2 else None

    assert model(x, "full", on_layer=halve_twice).shape == (1, 2, 16)
    assert sizes == [[1.0] * 8, [2.0] * 4, [4.0] * 2]
    # Merged tokens stand at the mean of their places: all places moved alike change nothing, otherwise they do.
    merged = model(x, "full", on_layer=halve_twice)
    moved = model(x, "full", on_layer=halve_twice, positions=torch.arange(8.0)[None] + 30)
    torch.testing.assert_close(moved, merged, rtol=0, atol=1e-4)
    spread = model(x, "full", on_layer=halve_twice, positions=2 * torch.arange(8.0)[None])
    assert (spread - merged).abs().max() > 1e-3


def test_a_merged_token_stands_at_the_mean_of_its_places():
    model, x = lively(layers=2), torch.randn(1, 4, 16)
    block, last = model.blocks
    places = torch.arange(4.0)[None]
    between = x + block.attention(block.norm1(x), places)
    merged = (between[:, 0::2] + between[:, 1::2]) / 2
    merged = merged + block.mlp(block.norm2(merged))
    # Both have size 2, and a bias that all keys share changes no softmax.
    expected = model.norm(last(merged, torch.tensor([[0.5, 2.5]])))
    torch.testing.assert_close(model(x, "full", on_layer=at(0, Pairs())), expected, rtol=0, atol=1e-5)


def test_a_reduced_causal_model_sees_no_later_token():
    model, x, reduce = lively(), torch.randn(1, 8, 16), at(1, Pairs())
    before = model(x, "causal", on_layer=reduce)
    for j in range(8):
        other = x.clone()
        other[:, j] += 3
        changed = (model(other, "causal", on_layer=reduce) != before).any(-1)[0].tolist()
        assert changed == [i >= j // 2 for i in range(4)]


def test_gradients_pass_through_a_reduction():
    model, x = lively(), torch.randn(1, 4, 16, requires_grad=True)
    (gradient,) = torch.autograd.grad(model(x, "full", on_layer=at(2, Keep([1]))).square().sum(), x)
    assert (gradient.abs().sum(-1) > 0).all()
