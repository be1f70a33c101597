"""What trains and judges BUS's selector: boxes, names, the matching loss, recall, and the other selectors."""

import pytest
import torch
from torch.testing import assert_close

from minitok import house
from minitok.data.questions import KINDS
from minitok.project.bus import BUS, matching_loss, patches_of, select
from minitok.stages import fitting, project, seeing
from minitok.stages.selecting import Attended, Lots, boxes_of, judged, matching, named, recall


@pytest.fixture(scope="module", autouse=True)
def _host():
    torch.manual_seed(0)
    host = house.recipe("vlm").build().eval().requires_grad_(False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(house, "load", lambda name: host)
        yield


@pytest.fixture(scope="module")
def stage():
    return project.stage(3)


def test_boxes_lie_around_the_patches_that_show_an_object():
    where = torch.full((2, 16), -1)
    where[0, [5, 6, 10]] = 2
    where[0, 15] = 0
    expected = torch.zeros(2, 4, 4)
    expected[0, 2], expected[0, 0] = torch.tensor([4.0, 4, 12, 12]), torch.tensor([12.0, 12, 16, 16])
    assert torch.equal(boxes_of(where), expected)


def test_boxes_of_patches_are_those_of_the_pixels_but_for_their_rims():
    drawn = seeing.draw("scenes", 6, 5)
    shown = torch.stack([(drawn.where == slot).any(1) for slot in range(4)], 1)
    assert bool((boxes_of(drawn.where)[~shown] == 0).all())
    apart = (boxes_of(drawn.where) - drawn.made.boxes)[shown]
    assert float(apart.abs().max()) < 6
    assert float(apart.mean(0).abs().max()) < 2


def test_a_question_names_what_it_asks_for_and_a_count_all(stage):
    asked = stage.asked[stage.which]
    for row in range(len(asked.kind)):
        those = {int(asked.first[row]), int(asked.second[row])} - {-1}
        expected = set(range(4)) if KINDS[asked.kind[row]] == "count" else those
        assert set(named(asked)[row].nonzero().flatten().tolist()) == expected


def test_the_loss_matches_each_questions_patches(stage):
    host, method = stage.host, BUS(4, u=8, layer=1)
    some = fitting.bank(host, 3)[torch.arange(3)]
    losses = []
    for row in range(3):
        seen = []
        host.vit.tokens(some.images[row : row + 1], lambda layer, seen=seen: seen.append(layer))
        for slot in range(7):
            one = some.asked[row, slot : slot + 1]
            if int(one.kind) >= 0:
                logits = method.scores(seen[1], host.word(one.words), one.words > 0)
                losses.append(matching_loss(logits, patches_of(boxes_of(some.where[row : row + 1]), named(one))))
    value = matching(method, host, some)
    assert_close(value, torch.stack(losses).mean())
    value.backward()
    assert all(weight.grad is not None for weight in method.selector.parameters())
    assert all(weight.grad is None for weight in method.decoder.parameters())


def test_recall_counts_the_picked_patches_of_what_is_asked_for(stage):
    class Told(BUS):
        """Knows the first of the objects asked for."""

        def scores(self, layer, text, asked):
            return self.found.float()

    rows, slots = (stage.which & (stage.asked.first >= 0)).nonzero(as_tuple=True)
    wanted = patches_of(stage.scenes.boxes[rows], named(stage.asked[rows, slots]))
    method = Told(u=20)
    method.found = wanted
    assert_close(recall(stage, method), torch.full((len(rows),), 100.0))
    method.found = ~wanted
    assert recall(stage, method).max() == 0
    method.found = wanted.roll(2, 1)
    share = recall(stage, method)
    picked = select(method.found.float(), 20)[:, :-1].sum(1) > 0
    for row in range(len(rows)):
        both = int((picked[row] & wanted[row]).sum())
        assert_close(float(share[row]), 100 * both / min(20, int(wanted[row].sum())))


def test_cls_picks_what_it_attends_to_and_hears_no_question(stage):
    method, seen = Attended(16), []
    stage.host.vit.tokens(stage.pictures, lambda layer: seen.append(layer.attention) if layer.index == 2 else None)
    rows, slots = stage.which.nonzero(as_tuple=True)
    found = judged(method, stage.host, stage.pictures, stage.asked[rows, slots], rows)
    assert_close(found.sigmoid(), seen[0][rows][:, :, 0, 1:].mean(1))
    assert not hasattr(method, "selector")


def test_lots_are_drawn_anew_in_training_and_stay_afterwards(stage):
    method, rows = Lots(16), torch.tensor([0, 1, 2])
    asked = stage.asked[rows, 0]
    first, second = (judged(method, stage.host, stage.pictures, asked, rows) for _ in range(2))
    assert not torch.equal(first, second)
    method.eval()
    first, second = (judged(method, stage.host, stage.pictures, asked, rows) for _ in range(2))
    assert torch.equal(first, second)
    assert not torch.equal(first[0], first[1])
    assert abs(float(first.sigmoid().mean()) - 0.5) < 0.06


@pytest.mark.parametrize("build", [Lots, Attended, BUS])
def test_each_is_measured_and_trained_by_the_stage(stage, build, monkeypatch):
    monkeypatch.setattr(fitting, "BATCH", dict.fromkeys(fitting.BATCH, 2))
    method = build(4)
    row = stage.measure(method.eval(), 4)
    assert row.tokens == 4
    method.train()
    fitting.apart(method, stage.host, fitting.bank(stage.host, 2)[torch.arange(2)], 4).backward()
    assert all(weight.grad is not None for weight in method.parameters())
