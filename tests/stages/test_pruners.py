"""The training of the learned pruners before the house's own vlm: the bank, two steps of each, what is shipped."""

import json
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch.testing import assert_close

from minitok import files, house, metrics
from minitok.house import Options
from minitok.reduce import Reduction, covipal, explain_compress
from minitok.reduce.fastv import scores
from minitok.stages import explained, pruners, reduce
from minitok.stages.controls import LOTS, attended

needs_weights = pytest.mark.skipif(not (pruners.place(None) / "covipal.safetensors").exists(), reason="not trained yet")


@pytest.fixture(scope="module")
def stage():
    return reduce.stage(scenes=1, host="vlm")


@pytest.fixture(scope="module")
def bank():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(explained, "SLOTS", (("colour",), ("exists",), ()))
        return explained.bank(house.load("vlm"), 2, seed=5, size=1)


def test_a_bank_holds_what_the_host_looked_at(bank):
    assert bank.visual.shape == (2, 256, 192)
    assert set(bank.scene.tolist()) == {0, 1}
    layers, last, words = [], len(bank.words) - 1, bank.words[-1:]
    logits = bank.host.answer_logits(bank.tokens[last:], words, on_layer=layers.append)
    assert int(logits.argmax()) == int(bank.answer[last])
    there = layers[0].attention[:, :, 256:, :256].mean(1)[0][words[0] != 0].mean(0)
    assert_close(bank.paid[last], there, atol=1e-5, rtol=1e-2)
    assert_close(bank.guide[last].float(), layers[5].attention[0, :, -1, :256], atol=2e-3, rtol=1e-2)
    some = bank[torch.tensor([last, 0])]
    assert torch.equal(some.relevance[0], bank.relevance[last])
    assert torch.equal(some.asked[0], words[0] != 0)
    assert torch.equal(some.tokens[1], bank.visual[0].float())


def test_only_right_answers_teach(bank, monkeypatch):
    def wrong(host, tokens, words):
        one = tokens.new_zeros(len(words), 256)
        return one, one[:, 0].long(), one, one[:, None]

    monkeypatch.setattr(explained, "explained", wrong)
    assert len(explained.bank(bank.host, 1, seed=5).words) == 0


def test_fewer_tokens_are_the_means_of_squares():
    x = torch.arange(16.0).view(1, 16, 1)
    assert explained.pooled(x, 2).flatten().tolist() == [2.5, 4.5, 10.5, 12.5]
    assert torch.equal(explained.pooled(x, 4), x)


def test_two_steps_of_each_and_the_card(tmp_path, monkeypatch):
    small = {name: [replace(part, batch=3) for part in trial.stretches] for name, trial in pruners.TRIALS.items()}
    trials = {name: replace(trial, stretches=small[name]) for name, trial in pruners.TRIALS.items()}
    monkeypatch.setattr(pruners, "TRIALS", trials)
    monkeypatch.setattr(pruners, "REHEARSAL", 1)
    monkeypatch.setattr(explained, "SLOTS", (("colour",), ("exists",), ()))
    pruners.train(tmp_path, Options(steps=2, device="cpu", progress=False))
    card = json.loads((tmp_path / "card.json").read_text())
    for name, trial in pruners.TRIALS.items():
        torch.manual_seed(0)
        first, made = trial.build().state_dict(), pruners.load(name, tmp_path)
        assert not made.training
        assert any((first[key].half() - value).abs().max() > 1e-6 for key, value in made.state_dict().items())
        assert card["sha256"][name] == files.sha256(tmp_path / f"{name}.safetensors")
        assert (tmp_path / f"{name}.safetensors").stat().st_size < 4e5
    with pytest.raises(ValueError, match="no pruner is called 'dart'; there are explain_compress, explain_compress_64"):
        pruners.load("dart", tmp_path)


def test_the_deaf_module_weighs_as_much_and_hears_nothing(bank):
    torch.manual_seed(0)
    deaf, hearing = (pruners.TRIALS[name].build() for name in ("covipal_deaf", "covipal"))
    assert metrics.parameters(deaf) == metrics.parameters(hearing)
    x, text, asked = bank.tokens[:2], torch.randn(2, 12, 192), bank.asked[:2]
    assert torch.equal(deaf(x, text, asked), deaf(x, -text, asked))
    assert not torch.equal(hearing(x, text, asked), hearing(x, -text, asked))


def test_chosen_scores_are_a_method_with_a_row_a_question(stage):
    cut = stage.start.alone(stage.rows, ("first_attention",))
    paid = cut.signals["first_attention"]
    assert paid.shape == (len(stage.rows), 3, 12, 256)

    def by_last(x, k, *, first_attention):
        return Reduction.keep(first_attention[:, :, -1].mean(1).topk(k).indices.sort(-1).values, x.shape[1])

    assert pruners.chosen(stage, scores(paid), 256).moved == pytest.approx(0, abs=1e-6)
    ours, method = pruners.chosen(stage, scores(paid), 40, "a test"), stage.measure(by_last, 40)
    assert_close(ours.bits, method.bits, atol=1e-5, rtol=1e-4)
    assert_close(ours.recall, method.recall, equal_nan=True)
    assert (ours.tokens, ours.flops, ours.needs) == (40, method.flops, "a test")
    assert ours.own != ours.own
    assert method.needs == "attention, text"
    with pytest.raises(TypeError, match="first_attention"):
        stage.measure(by_last, 40, 1)


def test_the_first_attention_is_that_of_the_model(stage):
    layers, (scene, slot) = [], stage.rows[3].tolist()
    stage.host.answer_logits(
        stage.start.visual[scene][None], stage.asked.words[scene, slot][None], on_layer=layers.append
    )
    paid = stage.start.alone(stage.rows[3:4], ("first_attention",)).signals["first_attention"]
    assert_close(paid, layers[0].attention[:, :, 256:, :256], atol=1e-5, rtol=1e-4)


def test_the_relevance_of_the_held_questions_is_written_as_shares_of_the_largest(stage, tmp_path):
    pruners.write_held(stage, tmp_path)
    found, one = pruners.held(tmp_path), pruners.relevance(stage, slice(3, 4))
    assert_close(found[3:4], one / one.amax(), atol=1e-3, rtol=1e-2)
    assert found.amax(1).tolist() == [1.0] * len(stage.rows)


@needs_weights
def test_the_shipped_pruners_are_better_than_lots(stage):
    lots = stage.measure(LOTS, 26)
    for row in (
        stage.measure(partial(covipal, module=pruners.load("covipal")), 26),
        stage.measure(partial(explain_compress, compressor=pruners.load("explain_compress")), 26),
    ):
        assert row.found > lots.found
    assert stage.measure(attended, 26).needs == "CLS"
