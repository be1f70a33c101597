"""What VFlowOpt searches for, on the house's vlm with weights that have learnt nothing."""

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from minitok import house
from minitok.reduce import vflowopt
from minitok.reduce.vflowopt import entropy, importance
from minitok.stages import reduce, reduce_search

POINT = [0.3, 0.8, 1.0, 4.0, 0.5]


@pytest.fixture(scope="module")
def stage():
    torch.manual_seed(0)
    host = house.recipe("vlm").build().eval().requires_grad_(False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(house, "load", lambda name: host)
        yield reduce.stage(scenes=2, host="vlm")


@pytest.mark.parametrize("average", [0.1, 0.25, 0.5])
def test_the_average_over_layers_is_the_budget(average):
    for share, inside in ((average, 1.0), (1.2 * average, 0.9), (1.4 * average, 0.5)):
        places = reduce_search.schedule([share, inside], average)
        read = 3 * places[None] + 2 * places[2] + places[4]
        assert read == pytest.approx(6 * 256 * average, abs=4)
        assert places[None] >= places[2] >= places[4] >= 1


def test_a_layer_is_never_left_without_tokens():
    assert reduce_search.schedule([0.375, 1.0], 0.25)[4] == 1


def test_a_point_is_pruned_as_it_says(stage):
    known = reduce_search.knowing(stage, POINT).start.signals["scores"]
    bits = entropy(stage.scenes.images, 4)
    assert_close(known, importance(stage.start.signals["attention"], bits, t=1.0, alpha=0.5))
    todo = reduce_search.plan(POINT, 0.25)
    x = stage.start.visual
    made = todo[0].method(x, todo[0].k, scores=known)
    assert_close(made.matrix(), vflowopt(x, 77, scores=known, cell=4.0).matrix())
    assert [step.layer for step in todo] == [None, 2, 4]
    row = reduce_search.measure(stage, POINT, 0.25)
    assert row.tokens == todo[-1].k
    dropped = reduce_search.measure(stage, POINT, 0.25, recycle=False)
    assert not torch.equal(row.bits, dropped.bits)
    assert not dropped.recall.isnan().all()


def test_its_worth_is_a_cosine_with_the_untouched_state(stage):
    cosine, same = reduce_search.worth(stage, POINT, 0.25)
    assert cosine.shape == same.shape == (len(stage.rows),)
    row = reduce_search.measure(stage, POINT, 0.25)
    assert torch.equal(same, row.same)
    everything, kept = reduce_search.worth(stage, [1.0, 1.0, 0.0, 4.0, 0.0], 1.0)
    assert_close(everything, torch.ones(len(stage.rows)), atol=1e-4, rtol=0)
    assert kept.all()
    scene, slot = stage.rows[3].tolist()
    read = stage.host.read(stage.start.visual[scene : scene + 1], stage.asked.words[scene, slot][None])[:, -1]
    assert_close(reduce_search.whole(stage)[3:4], read, atol=1e-3, rtol=1e-3)
    assert float(F.cosine_similarity(reduce_search.whole(stage)[3:4], read)) > 0.999
    assert reduce_search.bounds(0.25)[0] == (0.25, 0.375)
