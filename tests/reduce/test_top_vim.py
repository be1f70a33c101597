import math

import pytest
import torch
from torch.testing import assert_close

from minitok.reduce import Reduction
from minitok.reduce.top_vim import DIRECTIONS, ScanLayer, VisionScan, importance, keep_share, path, scan, top_vim


def plain(x, step, a, write, read, places):
    """One row, one head, position by position of the whole path; a pruned one passes on the state that it finds."""
    h, found, last, at = torch.zeros(write.shape[1], x.shape[1]), [], None, None
    for t, place in enumerate(places):
        for _ in range(place - at - 1 if last is not None else 0):
            h = h * math.exp(float(last * a))
        h = h * math.exp(float(step[t] * a)) + step[t] * write[t][:, None] * x[t]
        found.append(read[t] @ h)
        last, at = step[t], place
    return torch.stack(found)


def test_importance_by_hand():
    y = torch.tensor([[[3.0, -9.0], [1.0, 1.0], [-1.0, 1.5]]])
    assert importance(y).tolist() == [[3.0, 2.0, 1.5]]
    assert top_vim(torch.zeros(1, 3, 4), 2, outputs=y).order.tolist() == [[0, 1]]
    # The signed sum would keep tokens 1 and 2; x itself speaks where there are no outputs.
    assert top_vim(torch.tensor([[[0.0], [2.0], [1.0], [2.0]]]), 2).order.tolist() == [[1, 3]]


def test_paths_by_hand():
    # Of the grid 0 1 2 / 3 4 5 / 6 7 8 there are left 0 1 2 6: by columns 0 6 1 2, at steps 0, 2, 3, 6 of the path.
    places = torch.tensor([[0, 1, 2, 6]])
    expected = {
        "rows": ([0, 1, 2, 3], [1, 1, 1, 4]),
        "rows back": ([3, 2, 1, 0], [3, 4, 1, 1]),
        "columns": ([0, 3, 1, 2], [1, 2, 1, 3]),
        "columns back": ([2, 1, 3, 0], [3, 3, 1, 2]),
    }
    for direction, (order, steps) in expected.items():
        steps[0] = 1
        assert [part[0].tolist() for part in path(places, 3, direction)] == [order, steps]
        assert [part[0].tolist() for part in path(places, 3, direction, "hold")] == [order, [1] * 4]
    # As a new square 0 1 / 2 6 the columns would be 0 2 and 1 6.
    assert [part[0].tolist() for part in path(places, 3, "columns", "naive")] == [[0, 2, 1, 3], [1] * 4]
    # Five tokens stand in a square of three columns, whose last row is empty.
    assert path(torch.tensor([[0, 2, 4, 6, 8]]), 3, "columns", "naive")[0].tolist() == [[0, 3, 1, 4, 2]]
    whole = torch.arange(9)[None]
    for direction in DIRECTIONS:
        ways = [path(whole, 3, direction, align) for align in ("decay", "hold", "naive")]
        assert all(torch.equal(a, b) for way in ways for a, b in zip(way, ways[0], strict=True))


def test_a_scan_by_hand():
    one = torch.ones(1, 2, 1)
    # Decays of a half: 1, then 1/2 + 1; three steps away, 1/8 + 1.
    a = torch.tensor([-math.log(2)])
    near, far = (scan(one[..., None], one, a, one, one, torch.tensor([[1, s]])).flatten().tolist() for s in (1, 3))
    assert near == pytest.approx([1.0, 1.5])
    assert far == pytest.approx([1.0, 1.125])


@pytest.mark.parametrize("places", [[0, 1, 2, 3, 4], [0, 3, 4, 9, 11], [5, 6, 8, 9, 20]])
def test_a_scan_is_a_plain_loop(places):
    torch.manual_seed(0)
    x, step = torch.randn(2, 5, 3, 4), torch.rand(2, 5, 3)
    a, write, read = -torch.rand(3) - 0.2, torch.randn(2, 5, 6), torch.randn(2, 5, 6)
    at = torch.tensor(places)
    steps = at.diff(prepend=at[:1] - 1).expand(2, -1)
    found = scan(x, step, a, write, read, steps)
    for b in range(2):
        for h in range(3):
            expected = plain(x[b, :, h], step[b, :, h], a[h], write[b], read[b], places)
            assert_close(found[b, :, h], expected, atol=1e-4, rtol=1e-4)


def random(module, std=0.3):
    torch.manual_seed(0)
    for weight in module.parameters():
        torch.nn.init.normal_(weight, std=std)
    return module.eval().requires_grad_(False)


@pytest.mark.parametrize("align", ["decay", "hold", "naive"])
def test_a_layer_is_the_sum_of_four_loops(align):
    layer, places = random(ScanLayer(4, heads=2, state=3)), torch.tensor([[0, 1, 4, 5, 7], [2, 3, 4, 6, 8]])
    x = torch.randn(2, 5, 4)
    scaled = x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt() * layer.norm.scale
    inner, gate = layer.enter(scaled).chunk(2, -1)
    for b in range(2):
        y = layer.skip * inner[b]
        for i, direction in enumerate(DIRECTIONS):
            key = {"rows": lambda p: p, "columns": lambda p: (p % 3) * 3 + p // 3}[direction.split()[0]]
            own = [key(p) for p in (range(5) if align == "naive" else places[b].tolist())]
            order = sorted(range(5), key=lambda j: own[j], reverse=direction.endswith("back"))
            at = [abs(own[j] - own[order[0]]) for j in order] if align == "decay" else list(range(5))
            write, read, step = layer.signals[i](inner[b, order]).split([3, 3, 2], -1)
            step = (step + layer.bias[i]).exp().log1p()
            for h, part in enumerate((slice(0, 4), slice(4, 8))):
                a = -layer.rate[i, h].exp()
                found = plain(inner[b, order, part], step[:, h], a, write, read, at)
                for t, j in enumerate(order):
                    y[j, part] += found[t]
        y = y * gate[b] * gate[b].sigmoid()
        after, outputs = layer(x, places, 3, align)
        assert_close(outputs[b], y, atol=1e-4, rtol=1e-4)
        assert_close(after[b], x[b] + layer.out(y), atol=1e-4, rtol=1e-4)


def test_steps_begin_between_a_thousandth_and_a_tenth():
    torch.manual_seed(0)
    layer = ScanLayer(8, heads=50)
    steps, rates = torch.nn.functional.softplus(layer.bias.detach()), layer.rate.detach().exp()
    assert 0.000999 < float(steps.min()) < 0.003 < 0.04 < float(steps.max()) < 0.1001
    assert 0.99 < float(rates.min()) < 1.5 < 12 < float(rates.max()) <= 16.01
    assert layer.signals[0].out_features == 2 * 8 + 50


def test_sizes_of_a_classifier():
    torch.manual_seed(0)
    model = VisionScan()
    assert model.position.shape == (1, 256, 88)
    assert float(model.position.detach().std()) == pytest.approx(0.02, rel=0.03)
    assert [len(model.layers), model.head.out_features] == [6, 10]
    layer = ScanLayer(88)
    for held in (layer, *model.layers):
        assert [held.heads, held.state, held.rate.shape] == [4, 8, (4, 4)]


def test_a_classifier_that_keeps_all_is_the_same_however_aligned():
    model, images = random(VisionScan(8, layers=3, heads=2, size=16, classes=5), 0.2), torch.rand(2, 3, 16, 16)
    full = model(images)
    for align in ("decay", "hold", "naive"):
        assert torch.equal(model(images, {0: 16, 1: 16}, align), full)
    few = [model(images, {0: 8, 1: 5}, align) for align in ("decay", "hold", "naive")]
    assert all(not torch.allclose(a, b, atol=1e-5) for a, b in ((few[0], few[1]), (few[1], few[2]), (few[0], full)))
    assert torch.equal(model(images, {0: 8, 1: 5}), few[0])


def test_a_classifier_is_its_parts_in_order():
    model, images = random(VisionScan(8, layers=3, heads=2, size=16, classes=5), 0.2), torch.rand(2, 3, 16, 16)
    asked = []

    def last(x, k, outputs):
        asked.append(outputs)
        return Reduction.keep(torch.arange(x.shape[1] - k, x.shape[1]).expand(len(x), -1), x.shape[1])

    x = model.stem(images * 2 - 1).flatten(2).mT + model.position
    x, first = model.layers[0](x, torch.arange(16).expand(2, -1), 4)
    x, _ = model.layers[1](x[:, 6:], torch.arange(6, 16).expand(2, -1), 4)
    x, third = model.layers[2](x[:, 3:], torch.arange(9, 16).expand(2, -1), 4)
    x = x[:, 5:]
    x = x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt() * model.norm.scale
    found = model(images, {0: 10, 1: 7, 2: 2}, choose=last)
    assert_close(found, model.head(x.mean(1)), atol=1e-4, rtol=1e-4)
    assert_close(asked[0], first)
    assert_close(asked[2], third, atol=1e-5, rtol=1e-5)


def test_all_that_is_learnt_gets_gradients_with_fewer_tokens_too():
    torch.manual_seed(0)
    model = VisionScan(8, layers=3, heads=2, size=16)
    model(torch.rand(2, 3, 16, 16), keep_share(16, 0.5, (0, 1))).square().sum().backward()
    assert all(w.grad is not None and w.grad.isfinite().all() and w.grad.any() for w in model.parameters())


def test_shares_are_rounded_up():
    assert keep_share(16, 0.65, (0, 2)) == {0: 11, 2: 8}
    assert keep_share(7, 1.0, (1,)) == {1: 7}


@pytest.mark.parametrize(("direction", "align"), [("diagonal", "hold"), ("rows", "copy")])
def test_what_cannot_be_is_refused(direction, align):
    with pytest.raises(ValueError, match=f"direction='{direction}' and align='{align}' came, expected of"):
        path(torch.tensor([[0, 1]]), 2, direction, align)
