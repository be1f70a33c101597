"""Vision Remember: regions by hand, the module by plain loops, and what stays untouched inside the language model."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from minitok.nn import Shape
from minitok.project.vision_remember import Remember, VisionRemember, regions
from minitok.vlm import VLM

SEEN = [(4, None), (4, 1), (1, None)]


def lively(module):
    """Weights so large that nothing can hide."""
    with torch.no_grad():
        for weight in module.parameters():
            weight.normal_(std=0.5 if weight.dim() == 2 else 1.0)
    return module.requires_grad_(False)


@pytest.fixture
def host():
    return lively(VLM(Shape(width=8, layers=3, heads=2), vocabulary=7, size=16))


@pytest.fixture
def levels():
    return torch.randn(2, 4, 16, 6)


def build(k=4, **settings):
    return VisionRemember(k, 6, 8, **{"levels": (1, 3), "after": (0, 1)} | settings)


def test_each_patch_lies_in_the_region_of_its_row_and_column():
    x = torch.arange(36.0).view(1, 36, 1)
    cut = regions(x, 9)[0, :, :, 0]
    for row in range(6):
        for column in range(6):
            square, inside = row // 2 * 3 + column // 2, row % 2 * 2 + column % 2
            assert cut[square, inside] == 6 * row + column
    assert regions(x, 1)[0, 0].flatten().tolist() == x.flatten().tolist()
    assert regions(x, 36).shape == (1, 36, 1, 1)


def by_loops(module, x, features):
    """One token, one head, one patch at a time."""
    b, k, d = x.shape
    r = features.shape[1]
    heads, width = module.heads, module.query.out_features
    y = x.clone()

    def rms(t, norm):
        return t / (t.square().mean() + 1e-5).sqrt() * norm.scale

    for row in range(b):
        for i in range(k):
            own = features[row, i if r == k else 0]
            q = module.query.weight @ rms(x[row, i], module.norm1)
            gathered = torch.zeros(width)
            for h in range(heads):
                part = slice(h * width // heads, (h + 1) * width // heads)
                keys = [(module.key.weight @ f)[part] for f in own]
                logits = torch.stack([key @ q[part] / math.sqrt(width // heads) for key in keys])
                for share, f in zip(logits.softmax(0), own, strict=True):
                    gathered[part] += share * (module.value.weight @ f)[part]
            z = x[row, i] + module.out.weight @ gathered
            n, mlp = rms(z, module.norm2), module.mlp
            y[row, i] = z + mlp.out.weight @ (F.silu(mlp.gate.weight @ n) * (mlp.up.weight @ n))
    return y


@pytest.mark.parametrize("r", [4, 1])
def test_the_module_is_a_plain_loop(r):
    module = lively(Remember(5, 8, width=6, heads=2, hidden=7))
    x, features = torch.randn(2, 4, 8), torch.randn(2, r, 3, 5)
    assert_close(module(x, features), by_loops(module, x, features), atol=1e-4, rtol=1e-4)


def test_its_sizes_are_those_of_the_card():
    module = VisionRemember().remember[0]
    assert (module.heads, module.query.out_features, module.key.in_features) == (3, 96, 576)
    assert module.mlp.gate.out_features == 64


@pytest.mark.parametrize(("k", "seen"), SEEN)
def test_it_begins_without_effect_and_does_not_stay_so(host, levels, k, seen):
    method, words, x = build(k, seen=seen), torch.randint(7, (2, 5)), torch.randn(2, 16, 6)
    read = method.read(host, x, words, levels=levels)
    assert torch.equal(read, host.read(method(x), words, after_layer=lambda i, y: y))
    (read * torch.randn(8)).sum().backward()
    for last in [last for module in method.remember for last in (module.out, module.mlp.out)]:
        assert last.weight.grad is not None, "no gradient reaches the modules: are they used?"
        assert float(last.weight.grad.abs().max()) > 0
    lively(method)
    assert float((method.read(host, x, words, levels=levels) - host.read(method(x), words)).abs().max()) > 0.01


def test_it_refreshes_visual_tokens_after_the_chosen_layers_and_no_word(host, levels):
    method, words, x = lively(build()), torch.randint(7, (2, 5)), torch.randn(2, 16, 6)
    features = [F.layer_norm(levels[:, i], (6,)) for i in (1, 3)]
    cut = regions(torch.cat(features, -1), 4)
    assert_close(method.features(levels), cut)
    y = torch.cat([method(x), host.word(words)], 1)
    places = torch.cat([host.places(4, y.device)[0], 16 + torch.arange(5.0)])[None]
    for i, block in enumerate(host.lm.blocks):
        y = block(y, places, torch.ones(9, 9).tril().bool())
        if i < 2:
            y[:, :4] = method.remember[i](y[:, :4], cut)
    read = method.read(host, x, words, levels=levels)
    assert_close(read, host.lm.norm(y)[:, 4:], atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize(("k", "seen"), SEEN)
def test_a_patch_is_seen_by_the_token_of_its_region_alone_unless_all_see_all(levels, k, seen):
    method, x = lively(build(k, seen=seen)), torch.randn(2, k, 8)
    before = method.remember[1](x, method.features(levels))
    changed = levels.clone()
    changed[0, 3, 6] += torch.randn(6)  # row 1, column 2: square 1 of 4
    moved = (method.remember[1](x, method.features(changed)) - before).abs().amax(-1) > 0
    expected = {(4, None): [[0, 1]], (4, 1): [[0, i] for i in range(4)], (1, None): [[0, 0]]}
    assert moved.nonzero().tolist() == expected[k, seen]


def test_only_the_chosen_levels_count_each_normed_by_itself(levels):
    method = build()
    other = levels.clone()
    other[:, [0, 2]] += 1
    other[:, 3] *= 7
    assert_close(method.features(other), method.features(levels), atol=1e-4, rtol=1e-4)
    assert not torch.allclose(method.features(levels.flip(1)), method.features(levels), atol=0.1)
    assert VisionRemember().levels == (2, 4, 5)


def test_it_stands_after_the_second_and_the_fifth_layer():
    assert VisionRemember().after == (1, 4)
    assert VisionRemember().budgets == (16,)
    assert len(VisionRemember(after=(0, 1, 2)).remember) == 3


def test_the_projector_is_the_mean_of_squares_and_two_layers():
    method, x = build(), torch.arange(16.0)[None, :, None] * torch.randn(6)
    means = torch.stack([x[:, [i, i + 1, i + 4, i + 5]].mean(1) for i in (0, 2, 8, 10)], 1)
    assert_close(method(x), method.mlp(means))


@pytest.mark.usefixtures("unchecked")
def test_bad_input_is_named(levels):
    with pytest.raises(ValueError, match="seen=2 came, expected k=4 regions"):
        build(seen=2)
    with pytest.raises(ValueError, match="k=16 came, expected 4"):
        build()(torch.zeros(1, 16, 6), 16)
    for k in (0, 2, 9, 64):
        with pytest.raises(ValueError, match=f"k={k} of 16 tokens came"):
            regions(torch.zeros(1, 16, 6), k)
    with pytest.raises(ValueError, match="k=1 of 12 tokens"):
        regions(torch.zeros(1, 12, 6), 1)
