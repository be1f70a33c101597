import math

import pytest
import torch
from torch.distributions import Categorical, kl_divergence

from minitok.data import clothing
from minitok.house import Options
from minitok.reduce import Reduction, cost, even, once, tome
from minitok.stages import answers, controls, reduce, reduce_rows, reduce_vit, reduce_vlm

needs_photographs = pytest.mark.skipif(not clothing.at_hand(), reason="the photographs of clothes are not at hand")


@pytest.fixture(scope="module")
def stage():
    return reduce.stage(4)


def test_pooling_gives_the_mean_of_each_square():
    places = torch.stack(torch.meshgrid(torch.arange(16.0), torch.arange(16.0), indexing="ij"), -1).view(1, 256, 2)
    reduction = controls.pooling(places, 64)
    assert reduction.sizes(torch.ones(1, 256)).unique().tolist() == [4]
    assert reduction.apply(places)[0, 9].tolist() == [2.5, 2.5]
    assert controls.pooling(places, 16).sizes(torch.ones(1, 256)).unique().tolist() == [16]
    uneven = controls.pooling(places, 81)
    assert uneven.sizes(torch.ones(1, 256)).unique().tolist() == [1, 2, 4]
    rows = uneven.sizes(torch.ones(1, 256)).view(9, 9)
    assert (rows[0] * rows[:, :1] / rows[0, 0] == rows).all()
    assert uneven.restore(uneven.apply(places)).sub(places).abs().max() == 0.5
    for k in (32, 2, 289):
        with pytest.raises(ValueError, match=f"k={k} of 256 tokens came"):
            controls.pooling(places, k)


def test_radial_keeps_the_middle():
    kept = controls.radial(torch.zeros(2, 256, 1), 4).order
    assert kept.tolist() == 2 * [[7 * 16 + 7, 7 * 16 + 8, 8 * 16 + 7, 8 * 16 + 8]]


def test_attended_keeps_what_cls_looks_at_over_all_heads():
    attention = torch.zeros(1, 2, 256)
    attention[0, 0, 3], attention[0, 1, 3], attention[0, 0, 9] = 0.3, 0.3, 0.5
    assert controls.attended(torch.zeros(1, 256, 1), 1, cls_attention=attention).order.tolist() == [[3]]


def test_a_row_says_how_the_answers_changed():
    logits, before, labels = torch.randn(8, 10), torch.randn(8, 10), torch.randint(10, (8,))
    row = answers.row(logits, before, labels)
    theirs = kl_divergence(Categorical(logits=before), Categorical(logits=logits)) / math.log(2)
    torch.testing.assert_close(row.bits, theirs, atol=1e-5, rtol=0)
    assert row.moved == pytest.approx(float(theirs.mean()), abs=1e-5)
    assert row.right == pytest.approx(100 * float((logits.argmax(1) == labels).float().mean()))
    assert row.loyal == pytest.approx(100 * float((logits.argmax(1) == before.argmax(1)).float().mean()))


def test_a_gap_is_that_of_pairs_with_twice_its_error():
    zero = torch.zeros(4)
    ours, other = answers.Row(zero, zero, zero), answers.Row(zero, zero, torch.tensor([1.0, 1.0, 2.0, 2.0]))
    found, error = answers.gap(ours, other)
    assert found == 1.5
    assert error == pytest.approx(2 * (1 / 3) ** 0.5 / 2)
    assert reduce_rows.gap(ours, other) == pytest.approx((found, error))
    twice = reduce_rows.mean([ours, other])
    assert twice.bits.tolist() == [0.5, 0.5, 1, 1]
    assert answers.table({"a": twice}).splitlines()[1].split() == ["a", "0.0", "0.0", "0.750", "100", "0.00"]


def test_the_stage_runs_the_host_as_it_is(stage):
    assert stage.full.loyal == 100
    assert stage.full.moved == pytest.approx(0, abs=1e-6)
    once_, spread_ = stage.measure(tome, 16), stage.measure(tome, 16, layer=None)
    with torch.no_grad():
        expected = answers.row(stage.vit(stage.images, once(3, 16, tome)), stage.logits, stage.labels)
    torch.testing.assert_close(once_.bits, expected.bits, atol=1e-4, rtol=0)
    body = stage.vit.body
    assert once_.flops == pytest.approx(cost(body, {3: 16}, 256) / cost(body, {}, 256))
    assert spread_.flops == pytest.approx(cost(body, even(256, 16, 8), 256) / cost(body, {}, 256))
    assert not torch.equal(once_.bits, spread_.bits)


def test_draws_give_their_mean_and_own_cost_is_the_methods(stage):
    lots = [stage.measure(draw, 8) for draw in controls.LOTS[:2]]
    both = stage.measure(controls.LOTS[:2], 8)
    torch.testing.assert_close(both.bits, (lots[0].bits + lots[1].bits) / 2)
    assert both.own == 0


def test_own_cost_is_what_the_method_computes_on_the_signals_it_asks_for(stage):
    def method(x, k, *, keys):
        keys[0, 0] @ keys[0, 0].mT
        return Reduction.keep(torch.arange(k).expand(len(x), -1), x.shape[1])

    assert stage.own(method, 200) == 2 * 256 * 256 * 64
    assert stage.own(method, 50, n=100) == 2 * 100 * 100 * 64
    assert stage.own(tome, 256) == 0
    whole = cost(stage.vit.body, {}, 256)
    halves = sum(stage.own(method, k, n) for n, k in ((256, 226), (226, 196)))
    schedule = even(256, 16, 8)
    assert list(schedule.values())[:2] == [226, 196]
    assert stage.measure(method, 16, layer=None).own > halves / whole


def test_what_a_layer_saw_is_handed_out(stage):
    seen = stage.seen(photo=2)
    assert seen["x"].shape == (1, 256, 192)
    assert seen["keys"].shape == (1, 3, 256, 64)
    reduced = Reduction.keep(seen["cls_attention"].sum(1).argmax(-1, keepdim=True), 256)
    with torch.no_grad():
        logits = stage.vit(stage.images[2:3], once(3, 1, lambda x, k, *, cls_attention: reduced))
    expected = stage.measure(controls.attended, 1).bits[2:3]
    torch.testing.assert_close(
        answers.row(logits, stage.logits[2:3], stage.labels[2:3]).bits, expected, atol=1e-4, rtol=0
    )


@needs_photographs
def test_photographs_are_spread_over_the_test_set():
    stage, test = reduce.stage(4), clothing.load("test")
    assert torch.equal(stage.images, test.images[::93])
    assert torch.equal(stage.labels, test.labels[::93])
    assert stage.data == "4 of 372 clothing photographs (test set)"


def test_without_photographs_crops_stand_in(monkeypatch):
    monkeypatch.setattr(clothing, "at_hand", lambda: False)
    stage = reduce.stage(2)
    assert stage.data == "2 crops of scikit-image's photographs"
    assert stage.full.right == 100


def test_a_host_has_its_stage(stage):
    assert isinstance(stage, reduce.Stage)
    with pytest.raises(ValueError, match="host='lm' came, expected one of vit, vlm, dense, crops, quarters, clips"):
        reduce.stage(host="lm")


def test_methods_are_measured_where_they_can_run():
    assert [k for name, k in reduce.pieces("inside") if name == "pooling"] == [81, 16]
    of_crops, asking = {"hired", "globalcom2", "token_correlation"}, {"aim", "adatoken_3d", "corematching"}
    learned, methods = {"explain_compress", "covipal", "recoverable"}, set(reduce.METHODS)
    methods -= learned | asking | {"centerclip"}
    assert {name for name, _ in reduce.pieces("inside")} == methods - {"evenly", "expedit", *of_crops} | asking
    outside = {"fastv", "evenly", "expedit", *of_crops}
    assert {name for name, _ in reduce.pieces("before")} == methods - outside | learned
    of_clips = methods - {"fastv", "hiprune", "expedit", *of_crops} | {"centerclip"}
    assert {name for name, _ in reduce.pieces("clips")} == of_clips
    assert {name for name, _ in reduce.pieces("dense")} == methods - {"fastv", "hiprune", "evenly", *of_crops}
    assert of_crops < {name for name, _ in reduce.pieces("quarters")}
    assert [k for name, k in reduce.pieces("quarters") if name == "pooling"] == [80, 20]
    assert [k for name, k in reduce.pieces("clips inside") if name in ("tome", "fastv")] == [64, 64]
    assert not {"fastv", "hiprune", "pooling", "radial"} & {name for name, _ in reduce.pieces("spread")}
    assert [k for name, k in reduce.pieces("once") if name == "tome"] == [192, 128, 64, 32, 16, 8]


@needs_photographs
def test_a_rehearsal_gives_all_rows_and_resumes(tmp_path, monkeypatch):
    monkeypatch.setattr(
        reduce, "COUNTS", {"once": (64, 8), "spread": (16,), "inside": (81,), "clips": (32,), "dense": (36,)}
    )
    names = ("random_drop", "pooling", "fastv", "evenly", "expedit")
    monkeypatch.setattr(reduce, "METHODS", {name: reduce.METHODS[name][:1] for name in names})
    options = Options(progress=False)
    rows = reduce.measure(tmp_path, options, every=93)
    assert [(row["where"], row["method"], row["tokens"]) for row in rows] == [
        ("all tokens, vit", "none", 256),
        ("all tokens, vlm", "none", 256),
        ("all tokens, clips", "none", 512),
        ("all tokens, dense", "none", 256),
        ("once", "random_drop", 64),
        ("once", "random_drop", 8),
        ("once", "pooling", 64),
        ("spread", "random_drop", 16),
        ("inside", "random_drop", 81),
        ("inside", "pooling", 81),
        ("inside", "fastv", 81),
        ("clips", "random_drop", 32),
        ("clips", "pooling", 32),
        ("clips", "evenly", 32),
        ("dense", "random_drop", 36),
        ("dense", "pooling", 36),
        ("dense", "expedit", 36),
    ]
    assert rows[0]["moved"] == pytest.approx(0, abs=1e-6)
    assert rows[4]["cost"] > rows[5]["cost"]
    assert rows[1]["cost"] > rows[8]["cost"]
    assert rows[2]["cost"] > rows[-4]["cost"]
    assert rows[3]["cost"] > rows[-1]["cost"]
    assert rows[3]["mIoU"] > rows[-1]["mIoU"] > rows[-2]["mIoU"]
    assert set(rows[-1]) - {"where", "method", "tokens"} <= set(reduce.SCORES)
    assert all(not math.isnan(value) for row in rows for name, value in row.items() if name in reduce.SCORES)
    monkeypatch.setattr(reduce_vit, "resume", None)
    monkeypatch.setattr(reduce_vlm.Stage, "tried", None)
    assert reduce.measure(tmp_path, options, every=93) == rows
