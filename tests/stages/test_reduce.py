import pytest
import torch

from minitok.data import clothing
from minitok.house import Options
from minitok.stages import reduce


def test_pooling_gives_the_mean_of_each_square():
    places = torch.stack(torch.meshgrid(torch.arange(16.0), torch.arange(16.0), indexing="ij"), -1).view(1, 256, 2)
    reduction = reduce.pooling(places, 64)
    assert reduction.sizes(torch.ones(1, 256)).unique().tolist() == [4]
    assert reduction.apply(places)[0, 9].tolist() == [2.5, 2.5]
    assert reduce.pooling(places, 16).sizes(torch.ones(1, 256)).unique().tolist() == [16]


def test_the_same_answer_has_not_moved():
    logits, labels = torch.randn(8, 10), torch.zeros(8, dtype=torch.long)
    assert reduce.score(logits, logits, labels)["moved"] == pytest.approx(0, abs=1e-6)
    sure, unsure = torch.tensor([[50.0, 0.0]]), torch.tensor([[0.0, 0.0]])
    assert reduce.score(unsure, sure, torch.tensor([0]))["moved"] == pytest.approx(1)


@pytest.mark.skipif(not clothing.at_hand(), reason="the photographs of clothes are not at hand")
def test_a_rehearsal_gives_all_rows_and_resumes(tmp_path, monkeypatch):
    monkeypatch.setattr(reduce, "COUNTS", {"once": (64, 8), "spread": (16,)})
    monkeypatch.setattr(reduce, "METHODS", {name: reduce.METHODS[name][:1] for name in ("random_drop", "pooling")})
    options = Options(progress=False)
    rows = reduce.measure(tmp_path, options, every=93)
    assert [(row["where"], row["method"], row["tokens"]) for row in rows] == [
        ("none", "none", 256),
        ("once", "random_drop", 64),
        ("once", "random_drop", 8),
        ("once", "pooling", 64),
        ("spread", "random_drop", 16),
    ]
    assert rows[0]["moved"] == pytest.approx(0, abs=1e-6)
    assert rows[1]["cost"] > rows[2]["cost"]
    monkeypatch.setattr(reduce, "placed", None)
    assert reduce.measure(tmp_path, options, every=93) == rows
