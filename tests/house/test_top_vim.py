import pytest
import torch

from minitok.house import Options, top_vim
from minitok.metrics import parameters
from minitok.reduce.top_vim import VisionScan


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(top_vim, "start", lambda: VisionScan(8, 4, 2))
    monkeypatch.setattr(top_vim, "BATCH", 2)


def test_all_are_one_small_model():
    models = top_vim.build()
    assert list(models) == ["full", "full, again", "decay", "hold", "naive", "drawn", "whole",
                            "decay, again", "hold, again", "naive, again"]  # fmt: skip
    assert {parameters(model) for model in models.values()} == {parameters(top_vim.start())}
    assert 0.4e6 < parameters(top_vim.start()) < 0.45e6
    assert top_vim.SCHEDULE == {1: 167, 2: 109, 3: 71}


def test_ways_differ_in_what_they_say(small):
    torch.manual_seed(0)
    model, images = top_vim.start().eval().requires_grad_(False), torch.rand(2, 3, 64, 64)
    # Directions are only worth something with signals above what a beginner has.
    for signals in (layer.signals for layer in model.layers):
        for linear in signals:
            linear.weight.mul_(5)
    said = {name: way.said(model, images) for name, way in top_vim.TUNED.items()}
    assert all(not torch.equal(said["decay"], other) for name, other in said.items() if name != "decay")
    assert torch.equal(said["whole"], model(images))
    assert torch.equal(said["hold"], model(images, top_vim.SCHEDULE, "hold"))
    torch.manual_seed(1)
    first = top_vim.TUNED["drawn"].said(model, images)
    assert not torch.equal(first, top_vim.TUNED["drawn"].said(model, images))
    torch.manual_seed(1)
    assert torch.equal(first, top_vim.TUNED["drawn"].said(model, images))


def test_chance_keeps_any_token():
    torch.manual_seed(0)
    x = torch.zeros(400, 8, 1)
    kept = top_vim.drawn(x, 3, outputs=x).order
    assert bool((kept.diff() > 0).all())
    assert 110 < int(kept.flatten().bincount(minlength=8).min()) < int(kept.flatten().bincount().max()) < 190


def test_the_recipe_goes_on_from_the_full_model_and_resumes(small, monkeypatch, tmp_path):
    monkeypatch.setattr(top_vim, "TUNED", {name: top_vim.TUNED[name] for name in ("hold", "whole")})
    monkeypatch.setattr(top_vim, "TWICE", ("hold",))
    torch.manual_seed(5)
    views = torch.rand(4, 3, 64, 64).half(), torch.rand(4, 10).softmax(-1)
    # Two steps of two views each.
    monkeypatch.setattr(top_vim, "bank", lambda count, device: tuple(part[:count] for part in views))
    options = Options(steps=2, device="cpu", progress=False)
    models = top_vim.train(tmp_path, options)
    assert list(models) == list(top_vim.build()) == ["full", "full, again", "hold", "whole", "hold, again"]
    state = {name: model.state_dict()["head.weight"] for name, model in models.items()}
    for name, origin in (("hold", "full"), ("whole", "full"), ("hold, again", "full, again")):
        moved = (state[name] - state[origin]).abs().max()
        assert 0 < float(moved) < 0.02
    assert float((state["full"] - state["full, again"]).abs().max()) > 0.05
    resumed = top_vim.train(tmp_path, options)
    assert all(torch.equal(a, b) for a, b in zip(models.parameters(), resumed.parameters(), strict=True))
