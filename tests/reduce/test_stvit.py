import math

import pytest
import torch

from minitok.metrics import flops, parameters
from minitok.nn import Block, Shape
from minitok.reduce.stvit import Gather, Group, SemanticTokens, STViT, pooled, through
from minitok.vit import ViT

SHAPE = Shape(width=8, layers=4, heads=2, pairing=None)


def rms(x, weight):
    return x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt() * weight


def plain_attention(attention, queries, context):
    """One query and one head at a time."""
    c, d = attention.embed_dim, attention.head_dim
    parts = zip(attention.in_proj_weight.split(c), attention.in_proj_bias.split(c), strict=True)
    q, k, v = (x @ w.T + b for x, (w, b) in zip((queries, context, context), parts, strict=True))
    out = torch.zeros_like(q)
    for row in range(len(q)):
        for head in range(attention.num_heads):
            part = slice(head * d, head * d + d)
            for i in range(q.shape[1]):
                weights = [math.exp(float(q[row, i, part] @ key) / d**0.5) for key in k[row, :, part]]
                found = sum(w * value for w, value in zip(weights, v[row, :, part], strict=True))
                out[row, i, part] = found / sum(weights)
    return out @ attention.out_proj.weight.T + attention.out_proj.bias


def plain_gather(gather, s, context):
    seen = rms(context, gather.norm1.scale)
    s = s + gather.scale1 * plain_attention(gather.attention, rms(s, gather.norm1.scale), seen)
    return s + gather.scale2 * gather.mlp(rms(s, gather.norm2.scale))


def random(module):
    for weight in module.parameters():
        torch.nn.init.normal_(weight, std=0.4)
    return module.eval().requires_grad_(False)


def test_pooling_by_hand():
    x = torch.tensor([[[1.0, 9.0], [2.0, 8.0], [3.0, 7.0], [4.0, 6.0]]])
    assert pooled(x, 1).tolist() == [[[4.0, 9.0]]]
    assert pooled(x, 1, "mean").tolist() == [[[2.5, 7.5]]]
    assert torch.equal(pooled(x, 2), x)
    # Cells of a grid that a side does not divide overlap by a row: 3 rows in 2 cells are rows 0-1 and 1-2.
    nine = torch.arange(9.0).view(1, 9, 1)
    assert pooled(nine, 2).flatten().tolist() == [4.0, 5.0, 7.0, 8.0]
    assert pooled(nine, 2, "mean").flatten().tolist() == [2.0, 3.0, 5.0, 6.0]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: pooled(torch.zeros(1, 8, 2), 2), "side=2 of 8 tokens came"),
        (lambda: pooled(torch.zeros(1, 9, 2), 4), "side=4 of 9 tokens came, expected 1 to the side of a square grid"),
        (lambda: pooled(torch.zeros(1, 9, 2), 0), "side=0 of 9 tokens came"),
        (lambda: pooled(torch.zeros(1, 9, 2), 2, "sum"), "pool='sum' came, expected 'max' or 'mean'"),
        (lambda: STViT(SHAPE, early=3), "early=3 came, expected 0 to 2, two less than the layers"),
        (lambda: STViT(SHAPE, early=-1), "early=-1 came"),
    ],
)
def test_what_cannot_be_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_gathering_is_a_plain_loop():
    gather, s, context = random(Gather(8, 2)), torch.randn(2, 3, 8), torch.randn(2, 5, 8)
    torch.testing.assert_close(gather(s, context), plain_gather(gather, s, context), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("pool", ["max", "mean"])
def test_semantic_tokens_are_the_equations_of_the_paper(pool):
    made = random(SemanticTokens(8, 2, side=2, pool=pool))
    x, cls = torch.randn(2, 16, 8), torch.randn(2, 1, 8)
    grid = x.view(2, 2, 2, 2, 2, 8).transpose(2, 3).flatten(3, 4).view(2, 4, 4, 8)
    s0 = grid.amax(2) if pool == "max" else grid.mean(2)
    for more in (None, cls):
        context = x if more is None else torch.cat([x, more], 1)
        s1 = plain_gather(made.first, s0, torch.cat([s0, context], 1))
        # The centres are added to what asks, not to what is looked at.
        s2 = plain_gather(made.second, s1 + made.centres, torch.cat([s1, context], 1))
        torch.testing.assert_close(made(x, more), s2, atol=2e-4, rtol=1e-4)
    assert not torch.allclose(made(x), made(x, cls))


def test_scales_begin_so_small_that_semantic_tokens_are_pooled_ones():
    made, x = SemanticTokens(8, 2, side=2), torch.randn(2, 16, 8)
    torch.testing.assert_close(made(x), pooled(x, 2) + made.centres, atol=1e-3, rtol=0)
    assert made.first.scale1.unique().tolist() == made.second.scale2.unique().tolist() == [pytest.approx(1e-5)]
    assert SemanticTokens(8, 2, scale=0.5).first.scale2.unique().tolist() == [0.5]
    assert SemanticTokens(8, 2).centres.shape == (16, 8)
    assert float(SemanticTokens(64, 2, side=8).centres.detach().std()) == pytest.approx(0.02, rel=0.1)


def test_a_semantic_token_sees_patches_outside_its_cell_and_rows_see_themselves_only():
    made, x = random(SemanticTokens(8, 2, side=2)), torch.randn(2, 16, 8)
    other = x.clone()
    other[0, 15] += 1.0  # the last cell's
    moved = (made(other) - made(x)).abs().amax(-1)
    assert (moved[0] > 1e-4).all()
    assert (moved[1] == 0).all()


def test_the_classifier_is_its_parts_in_order():
    model, images = (
        random(STViT(SHAPE, size=16, classes=3, early=1, tokens=SemanticTokens(8, 2, side=2))),
        torch.rand(2, 3, 16, 16),
    )
    vit = model.vit
    x = torch.cat([vit.cls.expand(2, -1, -1), vit.stem(images * 2 - 1).flatten(2).mT], 1) + vit.position
    places = torch.zeros(1, 17)
    x = vit.body.blocks[0](x, places)
    s = vit.body.blocks[1](model.tokens(x[:, 1:], x[:, :1]), places[:, :4])
    s = rms(s, vit.body.norm.scale)
    torch.testing.assert_close(model.semantic(images), s, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(model(images), vit.head(s.mean(1)), atol=1e-4, rtol=1e-4)
    assert len(vit.body.blocks) == 2


def test_early_says_where_the_patches_end():
    torch.manual_seed(0)
    images, shape = torch.rand(1, 3, 64, 64), Shape(width=24, layers=6, heads=2, pairing=None)
    costs = [flops(STViT(shape, early=early), images) for early in range(5)]
    assert costs == sorted(costs)
    assert costs[2] == flops(STViT(shape), images) < 0.5 * flops(ViT(shape), images)
    assert abs(parameters(STViT(shape)) / parameters(ViT(shape)) - 1) < 0.05
    assert STViT(shape).semantic(images).shape == (1, 16, 24)


def test_what_is_learnt_gets_gradients():
    model = STViT(SHAPE, size=16, early=1, tokens=SemanticTokens(8, 2, side=2, scale=0.1))
    model(torch.rand(2, 3, 16, 16)).square().sum().backward()
    assert all(weight.grad is not None and weight.grad.abs().sum() > 0 for weight in model.tokens.parameters())


def test_a_group_gives_all_patches_back():
    group, x = random(Group(SHAPE, depth=2, side=2)), torch.randn(2, 16, 8)
    places = torch.zeros(1, 16)
    patches = group.block(x, places)
    s = group.tokens(patches)
    for block in group.blocks:
        s = block(s, places[:, :4])
    torch.testing.assert_close(group(x), plain_gather(group.back, patches, s), atol=1e-4, rtol=1e-4)
    assert len(group.blocks) == 2
    assert Group(SHAPE).tokens.side == 4
    # A group whose scales are nothing is its block on patches.
    for scale in (group.back.scale1, group.back.scale2):
        scale.zero_()
    torch.testing.assert_close(group(x), patches, atol=1e-6, rtol=0)


def test_groups_of_groups_serve_a_dense_head():
    torch.manual_seed(0)
    groups = torch.nn.Sequential(*(Group(SHAPE, depth=1, side=2, scale=0.1) for _ in range(2)), torch.nn.Linear(8, 3))
    x = torch.randn(2, 16, 8, requires_grad=True)
    groups(x)[:, 5].sum().backward()
    # Every patch, near or far, is heard in patch 5.
    assert (x.grad.abs().amax(-1) > 0).all()


def test_blocks_read_tokens_without_places():
    blocks, x = [random(Block(SHAPE)) for _ in range(2)], torch.randn(2, 6, 8)
    turned = torch.tensor([3, 1, 0, 5, 2, 4])
    torch.testing.assert_close(through(blocks, x)[:, turned], through(blocks, x[:, turned]), atol=1e-5, rtol=1e-5)
    assert torch.equal(through([], x), x)
