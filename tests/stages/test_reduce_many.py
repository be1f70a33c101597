"""The third host of chapter 6, with weights that have learnt nothing: what the tokens of several pictures are."""

import pytest
import torch
from torch.testing import assert_close

from minitok.data.questions import KINDS
from minitok.reduce import Reduction, fastv, once, random_drop, tome
from minitok.stages import controls, reduce, reduce_many

HOST = "vlm_many"  # untrained, by conftest.py
pytestmark = pytest.mark.usefixtures("untrained")


@pytest.fixture(scope="module", params=["crops", "quarters", "clips"])
def stage(request, untrained):
    return reduce.stage(scenes=2, host=request.param)


def pictures(stage):
    return stage.drawn.pictures.shape[1]


def said(stage, i, **settings):
    """The answer to question i by the host's own way of running."""
    scene, slot = stage.rows[i].tolist()
    visual = stage.host.project(stage.host.look(stage.drawn.pictures[scene : scene + 1]))
    if kept := settings.pop("kept", None):
        visual, settings["at"] = visual[:, kept], torch.tensor([kept]).float()
    return stage.host.answer_logits(visual, stage.asked.words[scene, slot][None], **settings)[0]


def test_all_tokens_are_the_host_as_it_is(stage):
    n = 64 * pictures(stage)
    full = stage.full
    assert (full.loyal, full.moved, full.flops, full.tokens, full.found) == (100, 0, 1, n, 100)
    assert stage.start.visual.shape == (2, n, 192)
    assert stage.start.pictures == pictures(stage)
    for i in (0, len(stage.rows) - 1):
        assert_close(stage.before[i], said(stage, i), atol=1e-4, rtol=1e-4)


def test_kept_tokens_keep_their_places_before_and_inside(stage):
    made, logits = stage.tried(random_drop, 40, stage.cut())
    scene, slot = stage.rows[1].tolist()
    assert_close(logits[scene, slot], said(stage, 1, kept=made.order[scene].tolist()), atol=1e-4, rtol=1e-4)
    words = stage.asked.words.shape[2]
    inside = said(stage, 1, on_layer=once(2, 40, fastv, first=0, after=words))
    found = stage.tried(fastv, 40, stage.cut(2).alone(stage.rows[1:2], ("paid",)))[1][0, 0]
    assert_close(found, inside, atol=2e-4, rtol=1e-3)
    assert (stage.before[1] - inside).abs().max() > 0.01


def test_signals_are_those_of_four_patches_of_one_picture(stage):
    layers, scene = [], 1
    stage.host.vit.tokens(stage.drawn.pictures[scene], layers.append)
    signals = stage.cut().signals
    p, i, j = pictures(stage) - 1, 3, 5  # the token in row 3 and column 5 of the last picture
    four = [1 + 16 * (2 * i + a) + 2 * j + b for a in (0, 1) for b in (0, 1)]
    token = 64 * p + 8 * i + j
    for name, layer in (("cls_attention", layers[-1]), ("cls_first", layers[0])):
        assert_close(signals[name][scene, :, token], layer.attention[p, :, 0, four].sum(-1))
        assert signals[name].shape == (2, 3, 64 * pictures(stage))
    assert_close(signals["keys"][scene, :, token], layers[-1].keys[p][:, four].mean(1))
    other = [1 + 16 * (2 * 6 + a) + 2 * 1 + b for a in (0, 1) for b in (0, 1)]
    paid = layers[-1].attention[p][:, four][:, :, other].mean(1).sum(-1)
    assert_close(signals["attention"][scene, :, token, 64 * p + 8 * 6 + 1], paid)
    assert float(signals["attention"][scene, :, token, : 64 * p].abs().sum()) == 0
    inside = stage.cut(1).alone(stage.rows[:1], ("paid", "cls_first")).signals
    assert inside["paid"].shape[-1] == 64 * pictures(stage)
    assert_close(inside["cls_first"], signals["cls_first"][:1])


def test_a_method_is_told_of_how_many_pictures_the_tokens_are(stage):
    told = []

    def method(x, k, *, pictures, keys):
        told.append((pictures, keys.shape[2]))
        return Reduction.keep(torch.arange(k).expand(len(x), -1), x.shape[1])

    for layer in (None, 1):
        stage.measure(method, 9, layer)
        stage.shown(method, 9, 0, layer)
    assert set(told) == {(pictures(stage), 64 * pictures(stage))}


def test_the_object_counts_in_all_pictures_that_show_it(stage):
    made, _ = stage.tried(random_drop, 100, stage.cut())
    row = stage.measure(random_drop, 100)
    found = 0
    for i in range(len(stage.rows)):
        question, scene = stage.questions[i], int(stage.rows[i, 0])
        slots = [slot for slot in (int(question.first), int(question.second)) if slot >= 0]
        pixels = stage.drawn.masks[scene][:, slots].any(1).nonzero().tolist()
        kept = set(made.order[scene].tolist())
        inside = [64 * p + y // 8 * 8 + x // 8 in kept for p, y, x in pixels]
        if inside:
            assert float(row.recall[i]) == pytest.approx(sum(inside) / len(inside), abs=1e-5)
            found += 1
        else:
            assert row.recall[i].isnan()
    assert found > 2


def test_ways_and_captions_are_not_asked_for(stage):
    asked = {KINDS[i] for i in stage.questions.kind.unique().tolist()}
    assert asked >= {"exists", "colour", "shape", "count"}
    assert not asked & {"motion", "caption"}
    assert stage.full.even == pytest.approx(sum(map(stage.full.of, asked)) / len(asked))


def test_merged_tokens_and_costs(stage):
    row, whole = stage.measure(tome, 40), stage.measure(tome, 40, 3)
    assert row.recall.isnan().all()
    assert 0 < row.flops < whole.flops < 1
    assert row.own > 0
    assert not torch.equal(row.bits, whole.bits)


def test_objects_of_quarters_stand_in_one_crop():
    masks = reduce.stage(scenes=4, host="quarters").drawn.masks[:, 1:]
    assert (masks.any(4).any(3).any(2).sum(1) == 1).all()
    many = reduce.stage(scenes=4, host="crops").drawn.masks[:, 1:]
    assert (many.any(4).any(3).any(2).sum(1) > 1).any()


def test_another_kind_of_picture_is_refused():
    with pytest.raises(ValueError, match="of='scenes' came, expected one of crops, quarters, clips"):
        reduce_many.stage(2, "scenes")


def test_controls_of_several_pictures_stay_within_each():
    x = torch.arange(32.0).view(1, 32, 1)
    squares = controls.pooling(x, 8, pictures=2)
    assert squares.apply(x).flatten().tolist() == [2.5, 4.5, 10.5, 12.5, 18.5, 20.5, 26.5, 28.5]
    assert controls.radial(x, 8, pictures=2).order.tolist() == [[5, 6, 9, 10, 21, 22, 25, 26]]
    attention = torch.zeros(1, 2, 32)
    attention[0, 0, 3], attention[0, 1, 3], attention[0, 0, 9], attention[0, 1, 20] = 0.3, 0.3, 0.5, 0.1
    assert controls.evenly(x, 3, cls_attention=attention, pictures=2).order.tolist() == [[3, 9, 20]]
    assert controls.attended(x, 2, cls_attention=attention).order.tolist() == [[3, 9]]
    for k in (9, 40):
        with pytest.raises(ValueError, match=f"k={k} of 32 tokens came, expected a square number of 16 in each of 2 p"):
            controls.pooling(x, k, pictures=2)
