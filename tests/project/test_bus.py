"""BUS: its labels, choice and loss by hand and by plain loops, its decoder by torch's own, and inside a ViT."""

import math

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from minitok import house
from minitok.nn import Layer
from minitok.project.bus import BUS, Abstraction, Selector, Short, matching_loss, patches_of, select


def test_the_decoder_has_two_layers_over_all_that_was_kept():
    bus = BUS(3, 6, 5, u=2, width=8, heads=2)
    kept = torch.randn(2, 4, 6)
    q = bus.queries.expand(2, 3, 8)
    expected = bus.mlp(bus.norm(bus.decoder[1](bus.decoder[0](q, kept), kept)))
    assert len(bus.decoder) == 2
    assert_close(bus.summary(kept), expected)
    assert_close(bus.summary(kept.flip(1)), expected)
    assert bus.decoder[0].into.heads == bus.decoder[0].among.heads == 2


def test_labels_by_a_plain_loop():
    boxes = torch.tensor([[[3.0, 0, 8, 4], [5, 5, 6, 11.5]], [[0, 0, 0, 0], [4, 4, 12, 8]]])
    named = torch.tensor([[True, False], [True, True]])
    found = patches_of(boxes, named, side=3)
    for row in range(2):
        for patch in range(9):
            y, x = 4 * (patch // 3), 4 * (patch % 3)
            over = False
            for (left, top, right, bottom), mine in zip(boxes[row].tolist(), named[row].tolist(), strict=True):
                area = max(0, min(right, x + 4) - max(left, x)) * max(0, min(bottom, y + 4) - max(top, y))
                over |= mine and area > 0
            assert bool(found[row, patch]) == over
    assert patches_of(boxes, ~named | True, side=3)[0].tolist() == [1, 1, 0, 0, 1, 0, 0, 1, 0]
    assert patches_of(boxes, named, side=2, patch=6.0)[0].tolist() == [1, 1, 0, 0]
    assert patches_of(torch.tensor([[[0.0, 0, 64, 64]]]), torch.tensor([[True]])).all()


def test_the_loss_is_the_mean_of_binary_cross_entropies():
    logits, labels = torch.randn(2, 5) * 3, torch.rand(2, 5) < 0.4
    each = []
    for z, y in zip(logits.flatten().tolist(), labels.flatten().tolist(), strict=True):
        s = 1 / (1 + math.exp(-z))
        each.append(-math.log(s if y else 1 - s))
    assert_close(matching_loss(logits, labels).item(), sum(each) / 10)
    assert matching_loss(logits.bfloat16(), labels).dtype == torch.float32


def test_five_patches_by_hand():
    s = torch.tensor([[0.5, 0.9, 0.1, 0.9, 0.2]])
    rows = select(s.logit(), 2)
    assert_close(rows, torch.tensor([[[0, 1, 0, 0, 0], [0, 0, 0, 1, 0], [0.625, 0, 0.125, 0, 0.25]]]))
    # of equal ones the lower index is picked
    assert select(torch.zeros(1, 4), 2).tolist() == [[[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0.5, 0.5]]]
    # scores as near to 0 as can be still have their shares
    assert_close(select(torch.tensor([[-200.0, -201.0, 1.0]]), 1)[0, 1, 0].item(), 1 / (1 + math.exp(-1)))


@pytest.mark.parametrize("u", [1, 3, 6])
def test_choice_and_fusion_by_a_plain_loop(u):
    logits, x = torch.randn(3, 7) * 2, torch.randn(3, 7, 4)
    found = select(logits, u) @ x
    for row in range(3):
        kept = sorted(sorted(range(7), key=lambda i: -float(logits[row, i]))[:u])
        s = {i: float(logits[row, i].sigmoid()) for i in range(7) if i not in kept}
        fused = sum(weight * x[row, i] for i, weight in s.items()) / sum(s.values())
        assert_close(found[row], torch.cat([x[row, kept], fused[None]]))


def test_only_the_fused_token_teaches_the_selector_what_to_drop():
    logits = torch.randn(1, 6).requires_grad_(True)
    kept = select(logits, 2)[:, :-1]
    assert not kept.requires_grad or torch.autograd.grad(kept.sum(), logits, retain_graph=True)[0].abs().max() == 0
    (select(logits, 2)[:, -1] * torch.randn(6)).sum().backward()
    assert ((logits.grad[0] != 0) == (select(logits, 2)[0, -1] != 0)).all()


def test_the_selector_is_an_mlp_of_patch_and_mean_word():
    selector = Selector(4, 6, 5)
    x, text, asked = torch.randn(2, 3, 4), torch.randn(2, 4, 6), torch.tensor([[0, 0, 0, 1], [1, 1, 1, 1]]).bool()
    whole = torch.cat([selector.see.weight, selector.hear.weight], 1)
    for row in range(2):
        t = nn.functional.layer_norm(text[row, asked[row]].mean(0), (6,))
        for patch in range(3):
            v = nn.functional.layer_norm(x[row, patch], (4,))
            inside = nn.functional.gelu(whole @ torch.cat([v, t]) + selector.see.bias)
            assert_close(selector(x, text, asked)[row, patch], (selector.out.weight @ inside + selector.out.bias)[0])
    # a row without words hears nothing, not NaN
    assert bool(selector(x, text, asked & False).isfinite().all())


def test_a_layer_of_the_decoder_is_torchs_own():
    mine, theirs = (
        Abstraction(8, 8, 2),
        nn.TransformerDecoderLayer(8, 2, 32, 0.0, "gelu", norm_first=True, batch_first=True),
    )
    state = {}
    for name, part in (("self_attn", mine.among), ("multihead_attn", mine.into)):
        for kind in ("weight", "bias"):
            into = [getattr(layer, kind) for layer in (part.query, part.key, part.value)]
            state |= {f"{name}.in_proj_{kind}": torch.cat(into), f"{name}.out_proj.{kind}": getattr(part.out, kind)}
    for i, layer in enumerate((mine.think[0], mine.think[2])):
        state |= {f"linear{i + 1}.weight": layer.weight, f"linear{i + 1}.bias": layer.bias}
    for i, norm in enumerate(mine.norms):
        nn.init.normal_(norm.weight)
        state |= {f"norm{i + 1}.weight": norm.weight, f"norm{i + 1}.bias": norm.bias}
    theirs.load_state_dict(state)
    q, kept = torch.randn(2, 3, 8), torch.randn(2, 5, 8)
    assert_close(mine(q, kept), theirs(q, kept))


def test_behind_an_encoder_it_selects_among_the_features():
    bus, x = BUS(3, 6, 5, u=2, width=8, heads=2), torch.randn(2, 7, 6)
    text, asked = torch.randn(2, 4, 5), torch.ones(2, 4).bool()
    expected = bus.summary(select(bus.selector(x, text, asked), 2) @ x)
    assert_close(bus(x, 3, text=text, asked=asked), expected)


@pytest.fixture(scope="module")
def host():
    torch.manual_seed(1)
    return house.recipe("vlm").build().eval().requires_grad_(False)


def test_inside_the_vit_later_layers_run_on_what_was_kept(host):
    images, text, asked = torch.rand(2, 3, 64, 64), torch.randn(2, 6, 192), torch.ones(2, 6).bool()
    for layer, u in ((2, 5), (4, 40)):
        bus, blocks = BUS(u=u, layer=layer).requires_grad_(False), host.vit.body.blocks
        x = host.vit.stem(images * 2 - 1).flatten(2).mT
        x = torch.cat([host.vit.cls.expand(2, -1, -1), x], 1) + host.vit.position
        at = torch.arange(257.0)[None]
        for block in blocks[:layer]:
            x = block(x, at)
        x = x + blocks[layer].attention(blocks[layer].norm1(x), at)
        kept = select(bus.selector(x[:, 1:], text, asked), u) @ x[:, 1:]
        x = torch.cat([x[:, :1], kept], 1)
        x = x + blocks[layer].mlp(blocks[layer].norm2(x))
        for block in blocks[layer + 1 :]:
            x = block(x, torch.arange(u + 2.0)[None])
        expected = host.vit.body.norm(x)
        assert_close(bus.see(host.vit, images, text, asked), expected, atol=1e-4, rtol=1e-4)
        words = torch.randint(1, 50, (2, 6))
        read = bus.read(host, torch.zeros(2, 256, 192), words, 16, images=images, text=text, asked=asked)
        assert_close(read, host.read(bus.summary(expected), words), atol=1e-3, rtol=1e-3)


def test_questions_that_follow_one_another_are_told_apart(host):
    bus, words = BUS().requires_grad_(False), torch.randint(1, 50, (1, 6))
    given = {"images": torch.rand(1, 3, 64, 64), "text": host.word(words), "asked": words > 0}
    slots = torch.tensor([0, 0, 0, 1, 1, 1])
    apart = bus.read(host, torch.zeros(1, 256, 192), words, slots=slots, **given)
    assert_close(apart[:, :3], bus.read(host, torch.zeros(1, 256, 192), words, **given)[:, :3], atol=1e-4, rtol=1e-4)
    assert not torch.allclose(apart[:, 3:], bus.read(host, torch.zeros(1, 256, 192), words, **given)[:, 3:])


def test_the_fused_patch_weighs_like_one_and_cls_is_not_judged():
    short = Short(torch.tensor([[[1.0, 0, 0], [0, 0.5, 0.5]]]))
    assert short.sizes(torch.tensor([[1.0, 3.0, 2.0]])).tolist() == [[1, 1]]
    x = torch.tensor([[[1.0], [2.0], [4.0]]])
    assert short.apply(x).flatten().tolist() == [1, 3]
    assert short.apply(x.bfloat16()).dtype == torch.bfloat16
    bus, hidden = BUS(), torch.randn(1, 257, 192)
    seen = [Layer(2, h, hidden[:, None], torch.ones(1, 257), lambda: hidden) for h in (hidden, hidden.clone())]
    seen[1].hidden[:, 0] += torch.randn(192)
    text, asked = torch.randn(1, 3, 192), torch.ones(1, 3).bool()
    assert_close(bus.scores(seen[0], text, asked), bus.scores(seen[1], text, asked))
    assert bus.scores(seen[0], text, asked).shape == (1, 256)


def test_the_sizes_that_the_card_names():
    bus = BUS()
    assert (bus.u, bus.layer, bus.budgets, bus.queries.shape) == (32, 2, (16,), (16, 96))
    assert sum(weight.numel() for weight in bus.parameters()) == 467_713


@pytest.mark.usefixtures("unchecked")
def test_bad_input_is_named():
    for u in (0, 4):
        with pytest.raises(ValueError, match=f"u={u} came, expected 1 to 3 of 4 patches"):
            select(torch.zeros(1, 4), u)
    with pytest.raises(ValueError, match=r"k=4 came, expected one of \(16,\)"):
        BUS().summary(torch.zeros(1, 3, 192), 4)
