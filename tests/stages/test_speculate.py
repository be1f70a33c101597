from types import SimpleNamespace

import pytest
import torch

from minitok.data import clothing
from minitok.house import Options
from minitok.speculate import speculative
from minitok.stages import speculate


@pytest.fixture
def few(monkeypatch):
    """Two classes, three judges, and no text, so that no model of 135 million weights is loaded."""
    judges = {"plain": 0, "speculative, k = 2": 2, "Jacobi, k = 8": 8}
    monkeypatch.setattr(speculate, "judges", lambda: {name: (k, speculative.accept) for name, k in judges.items()})
    monkeypatch.setattr(speculate, "TEN", 2)
    monkeypatch.setattr(speculate, "text", lambda folder, options: [])


@pytest.mark.usefixtures("few")
def test_a_rehearsal_gives_all_rows_and_resumes(tmp_path, monkeypatch):
    threads, options = torch.get_num_threads(), Options(steps=6, progress=False)
    rows = speculate.measure(tmp_path, options)
    assert torch.get_num_threads() == threads
    assert [row["method"] for row in rows] == list(speculate.judges())
    assert (rows[0]["tokens a call"], rows[0]["calls"], rows[0]["time"]) == (1, 100, 100)
    assert rows[1]["tokens a call"] > 1
    assert "Frechet distance" not in rows[0]
    monkeypatch.setattr(speculate, "ten", lambda *given: 1 / 0)
    assert speculate.measure(tmp_path, options) == rows


def test_all_judges_judge():
    draw = torch.Generator().manual_seed(0)
    p = (2 * torch.randn(3, 4096, generator=draw, dtype=torch.float64)).softmax(-1)
    q = p[:2].roll(1, -1)
    drafted = q.argmax(-1)
    for name, (k, accept) in speculate.judges().items():
        kept, token = accept(p, q, drafted, torch.Generator().manual_seed(0))
        assert 0 <= kept <= 2
        assert 0 <= token < 4096
        assert (k == 0) == (name == "plain")


@pytest.mark.usefixtures("unchecked")
def test_lenience_multiplies_q():
    p = torch.tensor([[0.25, 0.75], [0.5, 0.5]], dtype=torch.float64)
    q, generator = torch.tensor([[0.5, 0.5]], dtype=torch.float64), torch.Generator().manual_seed(0)
    always = [speculate.leniently(p, q, torch.tensor([0]), generator, 0.5)[0] for _ in range(50)]
    half = [speculate.leniently(p, q, torch.tensor([0]), generator, 1.0)[0] for _ in range(50)]
    assert sum(always) == 50
    assert 5 < sum(half) < 45


def test_quality_of_random_codes_is_poor(monkeypatch):
    photographs = clothing.load("test").images[::30]
    monkeypatch.setattr(clothing, "load", lambda split: SimpleNamespace(images=photographs))
    found = speculate.quality(torch.randint(4096, (10, 256), generator=torch.Generator().manual_seed(0)))
    assert found["surprise"] > 1
    assert found["Frechet distance"] > 50
    assert found["right"] <= 50
