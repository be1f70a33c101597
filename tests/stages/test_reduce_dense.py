import math
from dataclasses import replace

import pytest
import torch

from minitok.data.shapes import colours
from minitok.house._answers import PARTS
from minitok.reduce import Reduction, cost, expedit, reconstruction, tome
from minitok.stages import controls, dense_rows, reduce, reduce_dense


@pytest.fixture(scope="module")
def stage():
    return reduce.stage(scenes=4, host="dense")


def everything(x, k):
    return Reduction.keep(torch.arange(x.shape[1]).expand(len(x), -1), x.shape[1])


def test_the_host_labels_patches_well(stage):
    assert stage.full.miou > 97
    assert stage.full.right > 99.5
    assert stage.full.loyal == 100
    assert (stage.full.flops, stage.full.own, stage.full.tokens) == (1, 0, 256)
    assert stage.labels.shape == (4, 256, 3)
    masks = stage.scenes.masks[:, :, 2::4, 2::4]
    assert torch.equal(stage.labels[..., 0] > 0, masks.any(1).flatten(1))


def test_levels_are_those_of_the_vit(stage):
    tokens = stage.host.vit.tokens(stage.scenes.images)
    torch.testing.assert_close(stage.host.vit.body.norm(stage.levels[:, -1]), tokens, atol=1e-4, rtol=1e-4)
    assert stage.levels.shape == (4, 7, 257, 192)
    torch.testing.assert_close(stage.levels[:, 0], stage.host.vit.embed(stage.scenes.images), atol=1e-5, rtol=0)
    logits = stage.head(tokens[:, 1:])
    assert torch.equal(stage.before, torch.stack([part.argmax(-1) for part in logits.split(PARTS, -1)], -1))


@pytest.mark.parametrize("layers", [(1, 2), (2, 5), (3, 6), (1, 6)])
def test_keeping_all_changes_nothing(stage, layers):
    row = stage.measure(everything, 256, layers)
    assert row.loyal == 100
    assert row.miou == stage.full.miou
    assert row.flops == pytest.approx(1)


def test_the_way_there_and_back_by_hand(stage):
    x, blocks = stage.levels[:, 2], stage.host.vit.body.blocks
    made = tome(x[:, 1:], 40, keys=stage.signals(1)["keys"])
    y = torch.cat([x[:, :1], made.apply(x[:, 1:])], 1)
    size = torch.cat([torch.ones(4, 1), made.sizes(torch.ones(4, 256))], 1)
    places = torch.zeros(1, 41)
    for block in blocks[2:4]:
        y = block(y, places, size.log()[:, None, None])
    y = torch.cat([y[:, :1], made.restore(y[:, 1:])], 1)
    for block in blocks[4:]:
        y = block(y, torch.zeros(1, 257))
    row = stage.measure(tome, 40, (2, 4))
    expected = dense_rows.counted(stage.said(y), stage.labels, stage.before)
    torch.testing.assert_close(row.both, expected.both, atol=2, rtol=0)
    assert row.right == pytest.approx(expected.right, abs=0.3)
    body = stage.host.vit.body
    assert row.flops == pytest.approx((4 * cost(body, {}, 256) + 2 * cost(body, {}, 40)) / 6 / cost(body, {}, 256))
    assert row.needs == "keys"
    assert row.tokens == 40


def test_signals_are_those_of_the_layer_before(stage):
    found = []
    stage.host.vit.tokens(stage.scenes.images, on_layer=found.append)
    for name, told in stage.signals(2).items():
        layer = found[2]
        theirs = {
            "keys": layer.keys[:, :, 1:], "attention": layer.attention[:, :, 1:, 1:],
            "cls_attention": layer.attention[:, :, 0, 1:],
        }[name]  # fmt: skip
        torch.testing.assert_close(told, theirs, atol=1e-4, rtol=1e-3)


def test_dropped_patches_copy_the_nearest_kept_one():
    made = Reduction.keep(torch.tensor([[0, 255]]), 256)
    y = torch.tensor([[[1.0], [2.0]]])
    back = reduce_dense.copied(made, torch.zeros(1, 256, 1), y).view(16, 16)
    rows, columns = torch.meshgrid(torch.arange(16), torch.arange(16), indexing="ij")
    assert (back[rows + columns < 15] == 1).all()
    assert (back[rows + columns > 15] == 2).all()
    assert (back[rows + columns == 15] == 1).all()  # as near to both: the first
    merged = Reduction.merge((torch.arange(256) // 128)[None], 2)
    assert torch.equal(reduce_dense.copied(merged, torch.zeros(1, 256, 1), y), merged.restore(y))


def test_squares_are_enlarged_smoothly():
    y = torch.tensor([[[0.0], [0.0], [1.0], [1.0]]])
    back = reduce_dense.smooth(everything(y, 4), torch.zeros(1, 256, 1), y).view(16, 16)
    # Between the middles of the two cells, at rows 3.5 and 11.5, it goes up by an eighth a row.
    expected = ((torch.arange(16.0) - 3.5) / 8).clamp(0, 1)
    torch.testing.assert_close(back, expected[:, None].expand(16, 16), atol=1e-6, rtol=0)


def test_expedit_is_rebuilt_from_what_was_before(stage):
    x = stage.levels[:, 3, 1:]
    made = expedit(x, 64)
    y = torch.randn(4, 64, 192)
    expected = reconstruction(x, made.apply(x), tau=0.02) @ y
    torch.testing.assert_close(reduce_dense.rebuilt(made, x, y, tau=0.02), expected)
    row = stage.measure(expedit, 64, back=reduce_dense.rebuilt)
    assert row.miou > stage.measure(controls.pooling, 64, back=reduce_dense.smooth).miou + 10
    # Five rounds of distances and means, the centres again, and the way back: seven and two products of k x n x c.
    products = 2 * 64 * 256 * 192
    assert row.own * stage.whole * 1e9 == pytest.approx(13 * products, rel=0.01)


def test_draws_give_their_mean(stage):
    one, two = (stage.measure(draw, 36) for draw in controls.LOTS[:2])
    both = stage.measure(controls.LOTS[:2], 36)
    torch.testing.assert_close(both.either, (one.either + two.either) / 2)
    assert both.right == pytest.approx((one.right + two.right) / 2)


@pytest.mark.parametrize("layers", [(0, 3), (3, 3), (4, 7)])
def test_other_layers_are_refused(stage, layers):
    with pytest.raises(ValueError, match=rf"layers=\({layers[0]}, {layers[1]}\) came"):
        stage.measure(tome, 16, layers)


def test_overlaps_by_hand():
    truth = torch.zeros(2, 4, 3, dtype=torch.long)
    truth[0, :2] = 1
    said = truth.clone()
    said[0, 1, 0] = 0  # the shape of one patch is missed
    row = dense_rows.counted(said, truth, truth)
    # Shape 1: 1 of 2. None: 6 of 7. Colour and digit are all right.
    assert row.overlap("shape") == pytest.approx(100 * (1 / 2 + 6 / 7) / 2)
    assert row.overlap("colour") == row.overlap("digit") == 100
    assert row.miou == pytest.approx((row.overlap("shape") + 200) / 3)
    assert row.right == row.loyal == pytest.approx(100 * 7 / 8)
    assert dense_rows.counted(said, truth, said).loyal == 100


def test_a_gap_is_a_jackknife_over_scenes():
    torch.manual_seed(0)
    truth = torch.randint(0, 9, (12, 30, 3))
    one, two = (torch.where(torch.rand(12, 30, 3) < share, truth, 0) for share in (0.9, 0.6))
    ours, other = (dense_rows.counted(said, truth, truth) for said in (one, two))
    found, error = dense_rows.gap(ours, other)
    assert found == pytest.approx(ours.miou - other.miou)
    apart = []
    for left in range(12):
        rows = torch.arange(12) != left
        apart.append([dense_rows.counted(said[rows], truth[rows], truth[rows]).miou for said in (one, two)])
    apart = torch.tensor(apart, dtype=torch.double)
    apart = apart[:, 0] - apart[:, 1]
    assert error == pytest.approx(2 * math.sqrt(11 / 12 * float((apart - apart.mean()).square().sum())), rel=1e-6)
    assert dense_rows.gap(ours, ours) == (0, 0)


def test_what_is_said_of_colours_is_a_picture(stage):
    scene, first = stage.coloured(1), stage.labels[1, :, 1].view(16, 16)
    assert (scene[:, ::4, ::4][:, first == 0] == 0.85).float().mean() > 0.99
    place = (first > 0).nonzero()[len((first > 0).nonzero()) // 2]
    ink = colours()[first[place[0], place[1]] - 1]
    assert torch.equal(scene[:, 4 * place[0] + 3, 4 * place[1]], ink)
    assert torch.equal(stage.coloured(1, everything, 256), scene)
    assert not torch.equal(stage.coloured(1, controls.pooling, 16, reduce_dense.smooth), scene)


def test_a_table_names_parts_and_costs(stage):
    lines = reduce.table({"all": stage.full, "half": replace(stage.full, flops=0.5, needs="keys")}).splitlines()
    assert lines[0].split()[:5] == ["tokens", "mIoU", "%", "shape", "colour"]
    assert lines[2].split()[-3:] == ["50.0", "0.00", "keys"]
