"""The figures of the learned pruners, with modules that have learnt nothing: whose rows they are, and the gaps."""

import pytest
import torch

from minitok.stages import pruned, pruners, reduce, reduce_vlm
from minitok.stages.controls import LOTS

needs_figures = pytest.mark.skipif(not (pruners.place(None) / pruned.NAME).exists(), reason="not measured yet")


def test_the_figures_are_those_of_the_stage(tmp_path, monkeypatch):
    def untrained(name, folder):
        torch.manual_seed(len(name))
        return pruners.TRIALS[name].build().eval().requires_grad_(False)

    monkeypatch.setattr(pruners, "load", untrained)
    monkeypatch.setattr(reduce_vlm, "SLOTS", (("colour",), ("exists",), ()))
    facts = pruned.measure(tmp_path, 2, (8,))
    assert facts == pruned.load(tmp_path)
    rows = {row["method"]: row for row in facts["rows"]}
    stage = reduce.stage(scenes=2, host="vlm")
    assert facts["questions"] == len(stage.rows)
    lots = stage.measure(LOTS, 8)
    assert rows["lots"]["per question"] == pytest.approx(lots.right, abs=1e-3)
    assert rows["lots"]["bits"] == pytest.approx(lots.moved, abs=1e-3)
    assert "relations" not in rows["lots"]
    assert rows["pooling"]["tokens"] == 9
    ours = pruners.chosen(stage, pruners.relevance(stage), 8)
    assert rows["oracle"]["loyal"] == pytest.approx(ours.loyal, abs=1e-3)
    apart, _ = facts["gaps"]["oracle over lots, 8"]
    assert apart == pytest.approx(ours.right - lots.right, abs=0.01)
    assert rows["covipal"]["own"] > 0
    assert rows.keys() >= {*pruners.TRIALS, *pruned.METHODS, "guide", "first", "first, last word"}


@needs_figures
def test_the_shipped_figures_hold_every_count():
    facts = pruned.load()
    assert {(row["method"], row["tokens"]) for row in facts["rows"]} >= {("covipal", k) for k in pruned.COUNTS}
    assert facts["scenes"] == pruned.SCENES
