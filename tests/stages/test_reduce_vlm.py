"""The second host of chapter 6, with weights that have learnt nothing: cuts, rows, what was kept, what it costs."""

import math

import pytest
import torch
from torch.testing import assert_close

from minitok import metrics
from minitok.data.wordings import WORDS
from minitok.reduce import Reduction, fastv, highest, once, random_drop, spread, tome
from minitok.stages import reduce, reduce_cuts, reduce_rows, reduce_steps, reduce_vlm
from minitok.stages.controls import LOTS, attended, pooling
from minitok.stages.reduce_rows import Row, gap, held, mean, needs, table

HOST = "vlm"  # untrained, by conftest.py
pytestmark = pytest.mark.usefixtures("untrained")


@pytest.fixture(scope="module")
def stage(untrained):
    return reduce.stage(scenes=3, host="vlm")


def by_paid(x, k, *, paid):
    """Looks at what the words pay, so that each question has its own choice."""
    return Reduction.keep(highest(paid[:, :, -5:].float().mean((1, 2)), k), x.shape[1])


def alone(stage, i, method, k, layer):
    """The answer to question i by the host's own way of running."""
    scene, slot = stage.rows[i].tolist()
    visual = stage.host.project(stage.host.see(stage.scenes.images[scene : scene + 1]))
    words = stage.asked.words[scene, slot][None]
    return stage.host.answer_logits(visual, words, on_layer=once(layer, k, method, first=0, after=words.shape[1]))


def test_all_tokens_are_the_host_as_it_is(stage):
    full = stage.full
    assert (full.loyal, full.moved, full.flops, full.tokens, full.found) == (100, 0, 1, 256, 100)
    scene, slot = stage.rows[-1].tolist()
    visual = stage.host.project(stage.host.see(stage.scenes.images))[scene : scene + 1]
    alone = stage.host.answer_logits(visual, stage.asked.words[scene, slot][None])
    assert_close(stage.before[-1:], alone, atol=1e-4, rtol=1e-4)
    assert float(full.correct.float().mean()) == pytest.approx(
        float((stage.before.argmax(-1) == stage.questions.answer[:, 0]).float().mean())
    )


@pytest.mark.parametrize("layer", [0, 3])
@pytest.mark.parametrize("method", [tome, by_paid, fastv])
def test_a_cut_inside_is_the_host_with_an_on_layer(stage, method, layer):
    row = stage.measure(method, 40, layer)
    for i in (1, len(stage.rows) - 1):
        expected, (scene, slot) = alone(stage, i, method, 40, layer), stage.rows[i].tolist()
        if method is tome:
            said = stage.tried(method, 40, stage.cut(layer))[1][scene, slot]
        else:
            said = stage.tried(method, 40, stage.cut(layer).alone(stage.rows[i : i + 1], ("paid",)))[1][0, 0]
        assert_close(said[None], expected, atol=2e-4, rtol=1e-3)
        assert (stage.before[i] - expected).abs().max() > 0.01
        kept = stage.before[i].softmax(-1) * (stage.before[i].log_softmax(-1) - said.log_softmax(-1))
        assert float(row.bits[i]) == pytest.approx(float(kept.sum()) / math.log(2), abs=1e-6, rel=1e-3)


def test_a_cut_before_gives_the_language_model_fewer_tokens_in_their_places(stage):
    made, said = stage.tried(random_drop, 40, stage.cut())
    scene, slot = stage.rows[0].tolist()
    kept = made.order[scene]
    visual = stage.host.project(stage.host.see(stage.scenes.images))[scene, kept][None]
    words = stage.asked.words[scene, slot][None]
    expected = stage.host.answer_logits(visual, words, at=kept[None].float())
    assert_close(said[scene, slot][None], expected, atol=1e-4, rtol=1e-4)


def test_a_method_of_the_picture_may_meet_questions_alone_or_together(stage):
    def alone(x, k, *, asked):
        return pooling(x, k)

    for layer in (None, 2):
        together, apart = stage.measure(pooling, 16, layer), stage.measure(alone, 16, layer)
        assert_close(together.bits, apart.bits, atol=1e-4, rtol=1e-3)
        assert together.flops == apart.flops
    assert not torch.equal(stage.measure(pooling, 16, 2).bits, stage.measure(pooling, 16).bits)


def test_signals_are_what_the_networks_computed(stage):
    seen = []
    stage.host.vit.tokens(stage.scenes.images, seen.append)
    signals = stage.cut().signals
    assert_close(signals["cls_attention"], seen[-1].attention[:, :, 0, 1:])
    assert_close(signals["attention"], seen[-1].attention[:, :, 1:, 1:])
    assert_close(signals["middle"], seen[reduce_vlm.MIDDLE].attention[:, :, :, 1:])
    assert_close(signals["deep"], seen[5].attention[:, :, :, 1:])
    assert "paid" not in signals
    layers, (scene, slot) = [], stage.rows[2].tolist()
    visual = stage.host.project(stage.host.see(stage.scenes.images[scene : scene + 1]))
    words = stage.asked.words[scene, slot][None]
    stage.host.answer_logits(visual, words, on_layer=layers.append)
    found = stage.cut(2).alone(stage.rows[2:3], ("paid", "keys", "attention", "deep"))
    assert_close(found.signals["paid"], layers[2].attention[:, :, :, :256], atol=1e-5, rtol=1e-4)
    assert_close(found.signals["keys"], layers[2].keys[:, :, :256], atol=1e-4, rtol=1e-4)
    assert_close(found.signals["attention"], layers[2].attention[:, :, :256, :256], atol=1e-5, rtol=1e-4)
    assert_close(found.signals["deep"], signals["deep"][scene][None])
    assert_close(found.signals["text"], stage.host.word(words))
    assert torch.equal(found.signals["asked"], words != 0)
    assert_close(found.visual, layers[2].hidden[:, :256], atol=1e-4, rtol=1e-4)


def test_the_cost_is_what_is_counted_while_it_runs(stage):
    t, x = stage.asked.words.shape[2], torch.zeros(1, 268, 192)
    whole = metrics.flops(lambda: stage.host.lm(x))

    def counted(layer):
        cut = once(layer, 40, lambda x, k: random_drop(x, k), first=0, after=t)
        return metrics.flops(lambda: stage.host.lm(x, on_layer=cut)) / whole

    assert stage.measure(LOTS[0], 40, 2).flops == pytest.approx(counted(2))
    assert stage.measure(LOTS[0], 40).flops == pytest.approx(
        metrics.flops(lambda: stage.host.lm(x[:, : 40 + t])) / whole
    )
    assert stage.measure(LOTS[0], 40).own == 0
    assert stage.measure(tome, 40, 1).own > 0


def test_it_says_how_much_of_the_object_was_kept(stage):
    row = stage.measure(by_paid, 60, 1)
    for i in (0, 4, len(row.recall) - 1):
        question, scene = stage.questions[i], int(stage.rows[i, 0])
        kept = set(stage.shown(by_paid, 60, i, 1)[0].order[0].tolist())
        slots = [slot for slot in (int(question.first), int(question.second)) if slot >= 0]
        pixels = stage.scenes.masks[scene, slots].any(0).nonzero().tolist() if slots else []
        inside = [y // 4 * 16 + x // 4 in kept for y, x in pixels]
        if pixels:
            assert float(row.recall[i]) == pytest.approx(sum(inside) / len(inside), abs=1e-5)
        else:
            assert torch.isnan(row.recall[i])
    count = stage.questions.kind == 3
    assert row.recall[count].isnan().all()
    assert stage.full.recall[~count].nansum() > 0
    assert stage.measure(pooling, 16).recall.isnan().all()


def test_it_shows_what_is_kept_and_said(stage):
    made, said = stage.shown(tome, 30, 3, 2)
    assert made.shape == (1, 30, 256)
    assert said == WORDS[int(alone(stage, 3, tome, 30, 2).argmax())]


def test_pixels_count_where_their_patch_was_kept():
    objects = torch.zeros(3, 8, 8, dtype=torch.bool)
    objects[0, 1, 1:5] = True  # three pixels in patch 0, one in patch 1
    objects[1, 7, 7] = True
    share = held(Reduction.keep(torch.tensor([[0], [3]]), 4), objects, torch.tensor([0, 1, 1]))
    assert share[:2].tolist() == [0.75, 1]
    assert share[2].isnan()


def test_draws_give_their_mean(stage):
    lots = [stage.measure(draw, 30, 1) for draw in LOTS[:2]]
    both = stage.measure(LOTS[:2], 30, 1)
    assert_close(both.bits, (lots[0].bits + lots[1].bits) / 2)
    assert_close(both.recall, (lots[0].recall + lots[1].recall) / 2, equal_nan=True)
    assert both.kinds is lots[0].kinds or torch.equal(both.kinds, lots[0].kinds)


def row(bits, scene, recall=None):
    bits, zero = torch.tensor(bits), torch.zeros(len(bits))
    recall = zero if recall is None else torch.tensor(recall)
    return Row(zero, zero, bits, kinds=zero, recall=recall, scene=torch.tensor(scene))


def test_a_gap_counts_scenes_not_questions():
    ours = row([0.0, 0.0, 0.0, 0.0], [5, 5, 9, 9])
    found, error = gap(ours, row([1.0, 1.0, 2.0, 2.0], [5, 5, 9, 9]))
    assert (found, error) == (1.5, pytest.approx(2 * (2 / 1 * (1 + 1)) ** 0.5 / 4))
    assert gap(ours, row([1.0, 2.0, 1.0, 2.0], [5, 5, 9, 9])) == (1.5, 0)
    nan = float("nan")
    some = row([0.0] * 4, [5, 5, 9, 9], [1.0, nan, 0.5, 0.25])
    assert gap(row([0.0] * 4, [5, 5, 9, 9], [0.5, nan, 0.0, 0.25]), some, "recall")[0] == pytest.approx(1 / 3)


def test_a_table_says_all_that_was_asked(stage):
    lines = table({"cls": stage.measure(attended, 81), "squares": stage.measure(pooling, 81, 1)}).splitlines()
    assert lines[0].split()[:4] == ["tokens", "right", "%", "exists"]
    assert lines[1].split()[:2] == ["cls", "81"]
    assert lines[1].endswith("CLS")
    assert " - " in lines[2]
    assert lines[2].endswith("nothing")
    assert reduce.table({"all": stage.full}) == table({"all": stage.full})
    assert needs(["attention", "cls_attention", "x"]) == "CLS, attention"
    kinds = torch.tensor([4, 4, 5, 6, 7])
    right = Row(torch.tensor([1.0, 0, 1, 1, 0]), kinds, kinds.float(), kinds=kinds)
    assert right.kind("relations") == 62.5
    assert right.kind("digit") != right.kind("digit")


SEVERAL = {1: 90, 3: 40, 4: 7}


@pytest.mark.parametrize("method", [tome, by_paid, fastv])
def test_several_cuts_in_one_pass_are_the_host_with_an_on_layer(stage, method):
    row = stage.along(SEVERAL, method)
    for i in (1, len(stage.rows) - 1):
        scene, slot = stage.rows[i].tolist()
        visual, words = stage.start.visual[scene : scene + 1], stage.asked.words[scene, slot][None]
        on_layer = spread(SEVERAL, method, first=0, after=words.shape[1])
        expected = stage.host.answer_logits(visual, words, on_layer=on_layer)
        moved = stage.before[i].softmax(-1) * (stage.before[i].log_softmax(-1) - expected[0].log_softmax(-1))
        assert float(row.bits[i]) == pytest.approx(float(moved.sum()) / math.log(2), abs=1e-5, rel=2e-3)
    assert row.tokens == 7
    assert not torch.allclose(row.bits, stage.measure(method, 7, 4).bits, rtol=0.1)


def test_each_place_may_have_a_method_of_its_own(stage):
    def first_paid(x, k, *, paid):
        seen.append(tuple(paid.shape))
        return fastv(x, k, paid=paid)

    seen, methods = [], {None: tome, 1: random_drop, 2: first_paid, 5: attended}
    schedule, t = {None: 64, 1: 50, 2: 20, 5: 5}, stage.asked.words.shape[2]
    row = stage.along(schedule, methods)
    assert seen[-1] == (1, 3, 50 + t, 50)  # the last call counts what it computes for one question
    assert row.tokens == 5
    assert row.recall.isnan().all()
    assert row.needs == "CLS, attention, keys, text"
    i, kept = len(stage.rows) - 2, stage.along({1: 50, 2: 20}, {1: random_drop, 2: fastv})
    scene, chosen = int(stage.rows[i, 0]), stage.cut(1).left(random_drop(stage.start.visual, 50))
    last = reduce_steps.reached(chosen, 2).alone(stage.rows[i : i + 1], ("paid",))
    patches = random_drop(stage.start.visual, 50).order[scene, fastv(last.visual, 20, paid=last.signals["paid"]).order]
    share = held(Reduction.keep(patches, 256), stage.objects[i : i + 1], torch.tensor([0]))
    assert_close(kept.recall[i : i + 1], share, equal_nan=True)


def test_merged_tokens_stand_between_and_weigh_by_their_size_from_the_first_layer_on(stage):
    start = stage.start.left(tome(stage.start.visual, 64))
    one = start.alone(stage.rows[:1], ())
    n, t = 64, stage.asked.words.shape[2]
    assert one.size is not None
    assert one.size[0, :n].sum() == 256
    assert one.size[0, n:].tolist() == t * [1.0]
    scene = int(stage.rows[0, 0])
    members = tome(stage.start.visual, 64).assignment[scene]
    assert_close(one.places[0, 3], (members == 3).nonzero().float().mean())
    bias = one.size.log()[:, None, None].masked_fill(~torch.ones(n + t, n + t, dtype=torch.bool).tril(), -torch.inf)
    x = one.hidden
    for block in stage.host.lm.blocks:
        x = block(x, one.places, bias)
    expected = stage.host.head(stage.host.lm.norm(x)[:, -1])
    assert_close(start.answers()[tuple(stage.rows[0].tolist())][None], expected, atol=1e-4, rtol=1e-4)
    inside = reduce_cuts.after(start, 2)
    fewer = inside.left(tome(inside.visual, 10)).size
    assert fewer is not None
    assert_close(fewer[:, :10].sum(1), torch.full((3,), 256.0))


def test_merged_tokens_may_count_once(stage):
    i, merged = 5, tome(stage.start.visual, 64)
    scene, slot = stage.rows[i].tolist()
    places = merged.apply(torch.arange(256.0).view(1, -1, 1).expand(3, -1, -1))[scene, None, :, 0]
    words = stage.asked.words[scene, slot][None]
    expected = stage.host.answer_logits(merged.apply(stage.start.visual)[scene, None], words, at=places)
    moved = stage.before[i].softmax(-1) * (stage.before[i].log_softmax(-1) - expected[0].log_softmax(-1))
    row = stage.along({None: 64}, lambda x, k: tome(x, k), weigh=False)
    assert float(row.bits[i]) == pytest.approx(float(moved.sum()) / math.log(2), abs=1e-5, rel=2e-3)
    assert not torch.allclose(row.bits, stage.along({None: 64}, lambda x, k: tome(x, k)).bits, rtol=0.1)


def test_what_was_known_goes_along_with_the_tokens(stage):
    def ranked(x, k, *, scores):
        seen.append(scores)
        return Reduction.keep(highest(scores, k), x.shape[1])

    seen, scores = [], torch.rand(3, 256, generator=torch.Generator().manual_seed(0))
    known = stage.knowing(scores=scores)
    row = known.along({None: 100, 2: 30, 3: 8}, ranked)
    best = scores.sort(descending=True).values
    for found, k in zip(seen[:3], (256, 100, 30), strict=True):
        assert torch.equal(found.sort(descending=True).values, best[:, :k])
    assert_close(row.recall, known.along({None: 9, 3: 8}, ranked).recall, equal_nan=True)
    with pytest.raises(TypeError, match="scores"):
        stage.along({None: 9}, ranked)
    sizes = []

    def of_size(x, k, *, size):
        sizes.append(size[0].sum().item())
        return tome(x, k, size=size)

    stage.along({None: 100, 1: 30, 2: 9}, of_size)
    assert sizes[:3] == [256, 256, 256]


def test_no_tokens_at_all_may_be_left(stage):
    row = stage.along({1: 40, 3: 0}, fastv)
    assert row.recall.nansum() == 0
    i = 0
    seen, t = stage.cut(1).alone(stage.rows[i : i + 1], ("paid",)), stage.asked.words.shape[2]
    at = seen.left(fastv(seen.visual, 40, paid=seen.signals["paid"]))
    words = reduce_cuts.after(at, 3).hidden[:, 40:]
    blocks = stage.host.lm.blocks
    x = words + blocks[3].mlp(blocks[3].norm2(words))
    for block in blocks[4:]:
        x = block(x, 256 + torch.arange(t)[None].float(), torch.ones(t, t, dtype=torch.bool).tril())
    expected = stage.host.head(stage.host.lm.norm(x)[:, -1])
    moved = stage.before[i].softmax(-1) * (stage.before[i].log_softmax(-1) - expected[0].log_softmax(-1))
    assert float(row.bits[i]) == pytest.approx(float(moved.sum()) / math.log(2), abs=1e-5, rel=2e-3)
    assert stage.along({0: 0}, tome).own == 0


def test_the_cost_of_several_cuts_is_counted_layer_by_layer(stage):
    t, x = stage.asked.words.shape[2], torch.zeros(1, 268, 192)
    whole = metrics.flops(lambda: stage.host.lm(x))

    def counted(schedule, n=256):
        cut = spread(schedule, lambda x, k: random_drop(x, k), first=0, after=t)
        return metrics.flops(lambda: stage.host.lm(x[:, : n + t], on_layer=cut)) / whole

    assert stage.along(SEVERAL, LOTS[0]).flops == pytest.approx(counted(SEVERAL))
    assert stage.along({None: 128} | SEVERAL, LOTS[0]).flops == pytest.approx(counted(SEVERAL, 128))
    once, twice = stage.measure(tome, 90, 1).own, stage.along({1: 90, 3: 40}, tome).own
    second = metrics.flops(lambda: tome(x[:, :90], 40, keys=torch.randn(1, 3, 90, 64), size=torch.ones(1, 90))) / whole
    assert twice == pytest.approx(once + second)
    assert stage.along({1: 90, 3: 40}, LOTS[:2]).flops == pytest.approx(counted({1: 90, 3: 40}))


@pytest.mark.parametrize(
    ("schedule", "method", "message"),
    [
        ({}, tome, r"schedule at \[\] came, expected places in the order"),
        ({2: 30, 1: 20}, tome, r"schedule at \[2, 1\] came"),
        ({1: 30, None: 20}, tome, r"schedule at \[1, None\] came"),
        ({1: 30, 2: 20}, {1: tome}, r"methods for \[1\] came, expected those for \[1, 2\]"),
        ({1: 30, 2: 40}, tome, "k=40 came, expected a whole number from 1 to the 30 tokens"),
        ({None: 30, 6: 20}, tome, "layer=6 came, expected 0 to 5"),
    ],
)
def test_schedules_that_cannot_be_are_refused(stage, schedule, method, message):
    with pytest.raises(ValueError, match=message):
        stage.along(schedule, method)


def test_what_is_not_there_is_refused(stage):
    with pytest.raises(ValueError, match="layer=6 came, expected 0 to 5"):
        stage.measure(pooling, 16, 6)
    with pytest.raises(ValueError, match="layer=-1 came"):
        stage.measure(pooling, 16, -1)
    with pytest.raises(TypeError, match="paid"):
        stage.measure(fastv, 16)
    assert mean([stage.full]).moved == 0
    assert set(reduce_rows.KINDS) > {"digit", "count"}
