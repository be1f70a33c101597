"""The stage of chapter 7 with a host that has learnt nothing: what is measured, what is trained, what is kept."""

import json

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from minitok import house, metrics, stages
from minitok.data import scenes
from minitok.data.questions import KINDS, SLOTS, ask
from minitok.data.wordings import LIGHT, WORDS
from minitok.house import Options
from minitok.house._answers import (
    answer_loss,
    captions_right,
    in_a_word,
    likeliest,
    mumbled,
    packed,
    right_by_kind,
    shown,
)
from minitok.project import LLaVA, TokenFLEX
from minitok.stages import by_kind, fitting, project, projectors, seeing
from minitok.stages.trials import Trial, lots, only
from minitok.train import Plan


@pytest.fixture(scope="module", autouse=True)
def _host():
    torch.manual_seed(0)
    hosts = {name: house.recipe(name).build().eval().requires_grad_(False) for name in ("vlm", "vlm_many")}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(house, "load", hosts.__getitem__)
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


def test_a_difference_in_the_league_has_at_most_the_error_of_answers_never_wrong_together():
    torch.manual_seed(3)
    for wrong in (0.05, 0.3, 0.8):
        rows, errors = [{}, {}], []
        for kind, asked in by_kind.ON_SCENES.items():
            # Where answers are mostly right, no question is wrong in both; where they are wrong, none is right in both.
            ours, count = torch.rand(asked) > wrong, int(wrong * asked / 2)
            other = ours.clone() if wrong < 0.5 else ~ours
            if wrong < 0.5:
                other[ours.nonzero()[:count, 0]] = False
                other[~ours] = True
            for row, right in zip(rows, (ours, other), strict=True):
                row[kind] = 100 * float(right.float().mean())
            errors.append((ours.float() - other.float()).var() / asked)
        expected = 200 * float(sum(errors)) ** 0.5 / 9
        assert by_kind.apart(*rows) == pytest.approx(expected, rel=1e-3)
        assert by_kind.apart(*rows) == by_kind.apart(*reversed(rows))


def test_the_league_asks_so_many_questions_of_each_kind():
    drawn = seeing.draw("scenes", 40, 2 * 10**6, "cpu")
    kinds = drawn.asked.kind[in_a_word(drawn.asked)]
    counts = {kind: int((kinds == i).sum()) for i, kind in enumerate(KINDS[:9])}
    assert project.PICTURES["scenes"] == by_kind.ON_SCENES["exists"] == by_kind.ON_SCENES["count"] == 4000
    for kind, many in by_kind.ON_SCENES.items():
        assert many / 100 == pytest.approx(counts[kind], abs=10), kind


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


@pytest.fixture
def _small(monkeypatch):
    monkeypatch.setattr(fitting, "BATCH", dict.fromkeys(fitting.BATCH, 2))
    monkeypatch.setattr(project, "PICTURES", dict.fromkeys(project.PICTURES, 2))
    monkeypatch.setattr(fitting, "PLAN", Plan(steps=3, warmup=1, lr=1e-2, ema=0.0))


class Asking(nn.Module):
    """A projector that is given all signals; its tokens are those of `Pooling`."""

    def __init__(self, k: int = 4) -> None:
        super().__init__()
        self.pooling, self.given = projectors.Pooling(k), {}

    def forward(self, x, k=None, *, text, asked, levels, cls, images):
        self.given = {"text": text, "asked": asked, "levels": levels, "cls": cls, "images": images}
        return self.pooling(x, k)


@pytest.mark.usefixtures("_small")
@pytest.mark.usefixtures("unchecked")
def test_a_projector_is_trained_and_the_host_is_not():
    host = house.load("vlm")
    before = {key: value.clone() for key, value in host.state_dict().items()}
    held, asked = fitting.bank(host, 3), []
    first = scenes.render(2, seed=fitting.TRAINED)
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


@pytest.mark.usefixtures("_small")
def test_a_loss_of_the_methods_own_is_added_on_the_same_pictures():
    host, projector, met = house.load("vlm"), projectors.Pooling(4).requires_grad_(False), []
    held, apart = fitting.bank(host, 3), nn.Parameter(torch.zeros(()))
    projector.register_parameter("apart", apart)

    def more(method, given, some):
        met.append((method is projector, given is host, some.where.shape, some.features.dtype))
        return (method.apart - 1) ** 2

    fitting.train(projector, host, held, lambda: [4], Options(device="cpu", progress=False), more)
    assert met == [(True, True, (2, 256), torch.float32)] * 3
    assert bool(projector.apart > 0)


@pytest.mark.parametrize(("of", "pictures"), [("scenes", 1), ("crops", 5), ("clips", 8)])
def test_each_kind_of_picture_has_its_host_its_questions_and_its_patches(of, pictures):
    made = project.stage(2, of)
    assert made.features.shape == (2, 256 * pictures, 192)
    drawn = seeing.draw(of, 2, 2 * 10**6)
    assert torch.equal(drawn.pictures, made.pictures)
    asked = Asking(1)
    tokens = made.measure(lambda x: asked.pooling(x[:, :256])).tokens
    assert (tokens, made.full.tokens) == (1, 256 if of == "scenes" else 64 * pictures)
    kinds = {KINDS[i] for i in made.full.kinds.tolist()}
    assert ("motion" in kinds) == (of == "clips")
    assert "caption" not in kinds
    # the object in the middle of a patch is the one whose mask is there
    masks = drawn.made.masks if of != "crops" else None
    if masks is not None:
        flat = masks.flatten(0, -4)
        for patch in (0, 100, 130, 255):
            seen = flat[0, :, 4 * (patch // 16) + 2, 4 * (patch % 16) + 2].nonzero()[:, 0].tolist()
            assert drawn.where[0, patch] == (seen[0] if seen else -1)


def test_another_kind_of_picture_is_refused():
    with pytest.raises(ValueError, match="of='films' came, expected one of scenes, crops, quarters, clips"):
        project.stage(1, "films")


def test_a_method_is_given_what_its_arguments_name(stage):
    method = Asking()
    row = stage.measure(method, 4)
    given, one = method.given, int(stage.which.sum())
    assert given["levels"].shape[1:] == (6, 256, 192)
    assert len(given["text"]) in (1, one)
    assert_close(stage.host.vit.body.norm(stage.seen.levels[:, -1]), stage.features)
    assert_close(stage.seen.cls, stage.host.vit.tokens(stage.pictures)[:, 0])
    # questions met one by one are answered as when they are met together
    assert_close(stage.logits(method, 4), stage.logits(method.pooling, 4), atol=1e-4, rtol=1e-4)
    assert row.own < 0.05


def test_some_pictures_keep_what_was_computed_of_all(stage, monkeypatch):
    whole, rows = stage.seen.levels, torch.tensor([1, 0, 1])
    monkeypatch.setattr(type(stage.host), "levels", None)
    assert torch.equal(stage.seen[rows].levels, whole[rows])


def test_words_of_the_question_are_told_from_what_fills_it(stage):
    method = Asking()
    stage.logits(method, 4)
    words = stage.asked.words[stage.which]
    assert torch.equal(method.given["asked"], words > 0)
    assert_close(method.given["text"], stage.host.word(words))


@pytest.mark.usefixtures("_small")
def test_training_shows_a_method_the_question_and_not_the_answer(monkeypatch):
    monkeypatch.setattr(fitting, "APART", 100)  # all questions
    host, method = house.load("vlm"), Asking()
    held = fitting.bank(host, 2)[torch.arange(2)]
    blind, once = fitting.together(method.pooling, host, held, 4), fitting.apart(method, host, held, 4)
    given = method.given["asked"]
    assert not given[:, -1].any()
    assert given[:, -2].all()
    # the same answers but for the captions, which have no row of their own
    held.asked.kind[:, -1] = -1
    held.targets[:, held.slots == 7] = -100
    assert_close(once, fitting.together(method.pooling, host, held, 4), atol=1e-4, rtol=1e-4)
    assert not torch.allclose(once, blind)


class Inside(nn.Module):
    """Reads for itself, with a shift after the first layer of the language model."""

    def read(self, host, x, words, k=None, *, slots=None):
        return host.read(host.project(x), words, slots=slots, after_layer=lambda i, h: h + 1 if i == 0 else h)


def test_a_method_may_read_for_itself(stage):
    assert stage.measure(Inside()).moved > 0
    assert stage.measure(Inside()).tokens == 256


@pytest.mark.usefixtures("_small")
def test_the_league_keeps_each_projector_with_its_weights(tmp_path, monkeypatch):
    monkeypatch.setattr(project, "TRIALS", {"pooling": Trial(projectors.Pooling, (4, 1))})
    options = Options(steps=1, device="cpu", progress=False)
    rows = project.measure(tmp_path, options)
    named = [(row["pictures"], row["method"], row["tokens"]) for row in rows]
    assert named == [("scenes", "the host itself", 256), ("scenes", "pooling", 4), ("scenes", "pooling", 1)]
    assert {*project.SCORES, "method", "tokens"} - set(KINDS) <= rows[1].keys()
    loaded = project.trained("pooling", 4, tmp_path / "projectors")
    assert not loaded.training
    again = project.stage(2).measure(loaded, 4)
    assert again.even == pytest.approx(rows[1]["all kinds"])
    monkeypatch.setattr(fitting, "train", None)  # nothing is left to train
    assert project.measure(tmp_path, options) == rows
    assert stages.project is project
    json.dumps(rows)


def test_an_elastic_module_serves_all_its_budgets(monkeypatch):
    trial = Trial(projectors.Pooling, (16, 1), elastic=lambda: (1, 16))
    monkeypatch.setattr(project, "TRIALS", {"one": trial, "two": Trial(projectors.Pooling, (16, 1))})
    assert project.pieces() == [("one", 16), ("two", 1), ("two", 16)]
    assert (list(trial.drawn(1)()), list(Trial(projectors.Pooling, (4,)).drawn(4)())) == ([1, 16], [4])


def test_a_projector_that_nobody_trained_is_refused():
    with pytest.raises(ValueError, match="no projector 'pooling' was trained for k=2"):
        project.trained("pooling", 2)


def test_a_packed_row_teaches_each_answer_at_its_place():
    asked = ask(scenes.render(5, seed=1), SLOTS, seed=1)
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
    asked = ask(scenes.render(4, seed=2), SLOTS, seed=2)
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
    drawn = scenes.render(3, seed=4)
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
    asked = ask(scenes.render(30, seed=5), SLOTS, seed=5)
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
    asked = ask(scenes.render(200, seed=7), SLOTS, seed=7)
    heard = mumbled(asked, 0.3)
    lost = (heard.words != asked.words) & (heard.words == 0)
    assert torch.equal(heard.words.where(~lost, asked.words), asked.words)
    words = {WORDS[code] for code in asked.words[lost].tolist()}
    assert words <= set(LIGHT)
    assert {"the", "is"} <= words
    light = torch.tensor([word in LIGHT for word in WORDS])[asked.words]
    assert float(lost.sum() / light.sum()) == pytest.approx(0.3, abs=0.02)
    assert torch.equal(heard.answer, asked.answer)


def test_lots_are_drawn_anew_for_each_step_and_leave_the_pictures_alone():
    before = torch.get_rng_state()
    budgets = lots(lambda generator: int(torch.randint(1000, (), generator=generator)))
    drawn = [budgets() for _ in range(9)]
    assert len({*drawn}) > 5
    assert all(len(one) == 1 for one in drawn)
    assert torch.equal(torch.get_rng_state(), before)
    assert [*only(7)(), *only(7)()] == [7, 7]


def test_elastic_trials_are_asked_for_what_they_promise():
    x = torch.randn(1, 256, 192)
    for name, trial in project.TRIALS.items():
        if trial.elastic and name.split(", ")[0] in ("mqt", "m3", "tokenflex"):
            made = trial.build(max(trial.budgets))
            assert {made(x, k).shape[1] for k in trial.budgets} == {*trial.budgets}, name
            assert all(made(x, k).shape == (1, k, 192) for k in trial.elastic()), name


def test_the_ungated_control_is_a_plain_layer_as_large_as_the_gated_one():
    control, x = projectors.Ungated(6, 5, hidden=9).requires_grad_(False), torch.randn(2, 16, 6)
    normed = nn.functional.layer_norm(x[:, [8, 9, 12, 13]].mean(1), (6,))
    assert_close(control(x, 4)[:, 2], control.outer(nn.functional.gelu(control.inner(normed))))
    sizes = [metrics.parameters(made) for made in (projectors.Ungated(), TokenFLEX())]
    assert abs(sizes[0] / sizes[1] - 1) < 0.002
