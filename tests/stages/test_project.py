"""The stage of chapter 7 with a host that has learnt nothing: what is measured, what is trained, what is kept."""

import json

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from minitok import house, metrics, stages
from minitok.data.questions import KINDS, SLOTS
from minitok.data.wordings import LIGHT, WORDS
from minitok.house import Options
from minitok.house._answers import answer_loss, captions_right, likeliest, mumbled, packed, right_by_kind, shown
from minitok.project import LLaVA
from minitok.stages import fitting, project, projectors
from minitok.train import Plan


@pytest.fixture(scope="module", autouse=True)
def _host():
    torch.manual_seed(0)
    host = house.recipe("vlm").build().eval().requires_grad_(False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(house, "load", lambda name: host)
        yield


@pytest.fixture(scope="module")
def stage():
    return project.stage(2)


def test_the_host_is_loyal_to_itself_and_costs_all(stage):
    full = stage.full
    assert (full.loyal, full.moved, full.flops, full.tokens) == (100, 0, 1, 256)
    assert len(full.correct) == int(stage.which.sum())
    assert full.parameters == metrics.parameters(stage.host.projector)
    assert stage.measure(LLaVA(), 256).loyal < 100


def test_answers_are_those_of_the_language_model_one_by_one(stage):
    projector = projectors.Pooling(4).eval()
    logits = stage.logits(projector, 4)
    rows = stage.which.nonzero().tolist()
    for index in (0, len(rows) - 1):
        scene, slot = rows[index]
        visual = projector(stage.features[scene][None])
        one = stage.host.answer_logits(visual, stage.asked.words[scene, slot][None])
        assert_close(logits[index], one[0], atol=1e-4, rtol=1e-4)


def test_rows_say_right_by_kind_and_evenly(stage):
    kinds = torch.tensor([0, 0, 0, 8])
    row = project.Row(torch.tensor([1, 1, 0, 0]), torch.ones(4), torch.zeros(4), kinds=kinds)
    assert row.of("exists") == pytest.approx(200 / 3)
    assert row.of("digit") == 0
    assert row.even == pytest.approx(100 / 3)
    assert row.right == 50


def test_fewer_tokens_cost_less(stage):
    few = stage.measure(projectors.Resampler(16), 16)
    assert few.tokens == 16
    assert 0.05 < few.flops < 0.12
    assert few.own > 0
    told = project.table({"16": few}).splitlines()
    assert told[0].split()[:2] == ["tokens", "all"]
    assert len(told) == 2


def test_controls_see_what_they_should():
    x = torch.randn(2, 16, 6)
    pooled, shuffled = projectors.Pooling(4, 6, 5), projectors.Shuffle(4, 6, 5, n=16)
    assert_close(pooled(x)[:, 1], pooled.mlp(x[:, [2, 3, 6, 7]].mean(1)[:, None])[:, 0])
    assert_close(shuffled(x)[:, 2], shuffled.mlp(x[:, [8, 9, 12, 13]].flatten(1)[:, None])[:, 0])
    resampler = projectors.Resampler(3, 6, 5, n=16, heads=2).requires_grad_(False)
    assert resampler(x).shape == (2, 3, 5)
    changed = x.clone()
    changed[0, 7, 0] += 1
    assert float((resampler(changed)[0] - resampler(x)[0]).abs().amax(-1).min()) > 0
    assert_close(resampler(changed)[1], resampler(x)[1])


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("k", [0, 2, 9, 64])
def test_squares_share_out_the_grid_or_are_refused(k):
    with pytest.raises(ValueError, match=f"k={k} of 16 tokens came"):
        projectors.squares(torch.zeros(1, 16, 1), k)


def test_a_projector_is_trained_and_the_host_is_not(monkeypatch):
    monkeypatch.setattr(fitting, "BATCH", 2)
    monkeypatch.setattr(fitting, "PLAN", Plan(steps=3, warmup=1, lr=1e-2, ema=0.0))
    host = house.load("vlm")
    before = {key: value.clone() for key, value in host.state_dict().items()}
    held, asked = fitting.bank(host, 3, size=2), []
    first = project.pictures.render(2, seed=fitting.TRAINED)
    assert_close(held.features[:2].float(), host.see(first.images), atol=2e-2, rtol=0)
    projector = projectors.Pooling(4)
    start = [p.clone() for p in projector.parameters()]

    def budgets():
        asked.append(4)
        return [4, 1]

    fitting.train(projector, host, held, budgets, Options(device="cpu", progress=False))
    assert asked == [4, 4, 4]
    assert all(bool((a != b).any()) for a, b in zip(start, projector.parameters(), strict=True))
    assert all(torch.equal(before[key], value) for key, value in host.state_dict().items())


def test_the_league_keeps_each_projector_with_its_weights(tmp_path, monkeypatch):
    monkeypatch.setattr(fitting, "BATCH", 2)
    monkeypatch.setattr(project, "METHODS", {"pooling": ((4, 1), projectors.Pooling)})
    options = Options(steps=1, device="cpu", progress=False)
    rows = project.measure(tmp_path, options, scenes=2)
    assert [(row["method"], row["tokens"]) for row in rows] == [("vlm itself", 256), ("pooling", 4), ("pooling", 1)]
    assert {*project.SCORES, "method", "tokens"} - set(KINDS) <= rows[1].keys()
    loaded = project.trained("pooling", 4, tmp_path / "projectors")
    assert not loaded.training
    again = project.stage(2).measure(loaded, 4)
    assert again.even == pytest.approx(rows[1]["all kinds"])
    monkeypatch.setattr(fitting, "train", None)  # nothing is left to train
    assert project.measure(tmp_path, options, scenes=2) == rows
    assert stages.project is project
    json.dumps(rows)


def test_a_packed_row_teaches_each_answer_at_its_place():
    asked = project.ask(project.pictures.render(5, seed=1), SLOTS, seed=1)
    words, slots, targets = packed(asked)
    assert words.shape == targets.shape == (5, len(slots))
    assert len(slots) % 64 == 0
    for row in range(5):
        for slot in range(len(SLOTS)):
            here = targets[row, slots == slot]
            taught = here[here >= 0].tolist()
            answer = [code for code in asked.answer[row, slot].tolist() if code]
            assert taught == (answer if int(asked.kind[row, slot]) >= 0 else [])
            if taught:
                first = int((here >= 0).nonzero()[0])
                assert torch.equal(words[row, slots == slot][: first + 1], asked.words[row, slot])


def test_an_answer_weighs_by_its_kind_not_by_its_length():
    asked = project.ask(project.pictures.render(4, seed=2), SLOTS, seed=2)
    _, slots, targets = packed(asked)
    logits = torch.zeros(*targets.shape, 100)
    # a model that is sure of the captions and of nothing else
    sure = (targets >= 0) & (slots == len(SLOTS) - 1)
    logits[sure] = 1000 * nn.functional.one_hot(targets[sure], 100).float()
    valid = asked.kind >= 0
    relation = (asked.kind >= KINDS.index("left")) & (asked.kind <= KINDS.index("below"))
    weight = torch.where(asked.kind == KINDS.index("digit"), 2.0, torch.where(relation, 1.5, 1.0)) * valid
    expected = float(weight[:, :-1].sum() / weight.sum()) * torch.tensor(100.0).log()
    assert_close(answer_loss(logits, asked, slots, targets), expected)


def test_patches_are_labelled_by_what_stands_at_their_middle():
    drawn = project.pictures.render(3, seed=4)
    labels = shown(drawn.masks, drawn.shape, drawn.colour, drawn.glyph)
    for row in range(3):
        for patch in range(0, 256, 5):
            y, x = 4 * (patch // 16) + 2, 4 * (patch % 16) + 2
            slots = drawn.masks[row, :, y, x].nonzero()[:, 0].tolist()
            expected = [0, 0, 0]
            if slots:
                (slot,) = slots
                expected = [
                    int(drawn.shape[row, slot]) + 1,
                    int(drawn.colour[row, slot]) + 1,
                    int(drawn.glyph[row, slot]) + 2,
                ]
            assert labels[row, patch].tolist() == expected


def test_figures_by_kind_and_captions():
    asked = project.ask(project.pictures.render(30, seed=5), SLOTS, seed=5)
    logits = nn.functional.one_hot(asked.answer[..., 0], 100).float()
    assert set(right_by_kind(logits, asked).values()) == {100.0}
    assert right_by_kind(logits.roll(1, -1), asked)["colour"] == 0
    assert 50 <= likeliest(asked)["exists"] < 75
    captions = asked.answer[:, -1]
    assert captions_right(captions, captions) == (100, 100)
    swapped = captions.clone()
    two = (captions[:, 3] != 0) & (captions[:, 7] != 0) & (captions[:, 8] == 0)
    swapped[:, 1:3], swapped[:, 5:7] = captions[:, 5:7], captions[:, 1:3]
    objects, exact = captions_right(swapped[two], captions[two])
    assert objects == 100 > exact
    assert captions_right(captions.roll(1, 0), captions)[0] < 50


def test_mumbled_questions_lose_light_words_alone():
    asked = project.ask(project.pictures.render(200, seed=7), SLOTS, seed=7)
    heard = mumbled(asked, 0.3)
    lost = (heard.words != asked.words) & (heard.words == 0)
    assert torch.equal(heard.words.where(~lost, asked.words), asked.words)
    words = {WORDS[code] for code in asked.words[lost].tolist()}
    assert words <= set(LIGHT)
    assert {"the", "is"} <= words
    light = torch.tensor([word in LIGHT for word in WORDS])[asked.words]
    assert float(lost.sum() / light.sum()) == pytest.approx(0.3, abs=0.02)
    assert torch.equal(heard.answer, asked.answer)
