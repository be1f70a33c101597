"""SliME's rivals: which tokens of the crops they take, what their routers learn, and what is trained when."""

import pytest
import torch
from torch.testing import assert_close

from minitok import house
from minitok.house import Options
from minitok.project.slime import STAGES, learns
from minitok.stages import fitting, routers
from minitok.train import Plan


@pytest.fixture
def local() -> torch.Tensor:
    return torch.randn(2, 64, 6)


def signals(b: int = 2, d: int = 6) -> dict[str, torch.Tensor]:
    return {"text": torch.randn(b, 4, d), "asked": torch.ones(b, 4, dtype=torch.bool)}


def test_an_even_choice_makes_grids():
    turn = routers.spread(256)
    assert sorted(turn.tolist()) == list(range(256))
    for few, step in ((4, 8), (16, 4), (64, 2)):
        places = (turn < few).nonzero()[:, 0].tolist()
        assert places == [16 * row + column for row in range(0, 16, step) for column in range(0, 16, step)]


def test_rivals_do_not_read_the_question(local):
    for kind in (routers.Lots, routers.Even):
        made = kind(192, 6).eval()
        assert_close(made.score(local, **signals()), made.score(local, **signals()))
    even = routers.Even(192, 6).eval().score(local, **signals())
    assert_close((-even[1]).long(), routers.spread(64))
    lots = routers.Lots(192, 6)
    assert not torch.equal(lots.score(local, **signals()), lots.score(local, **signals()))
    draws = torch.stack([lots.score(local, **signals()) for _ in range(200)])
    assert 0 <= float(draws.min()) < 0.01
    assert 0.99 < float(draws.max()) <= 1


def test_a_straight_through_router_changes_no_value_and_has_a_gradient(local):
    made = routers.Learning(192, 6, temperature=0.5)
    plain = routers.SliME(192, 6)
    scores = torch.randn(2, 64, requires_grad=True)
    assert_close(made.choose(local, scores, 5), plain.choose(local, scores, 5))
    weight = torch.randn(2, 5, 6)
    (made.choose(local, scores, 5) * weight).sum().backward()
    share, kept = (scores / 0.5).softmax(1), scores.argsort(1, descending=True)[:, :5].sort(1).values
    worth = torch.zeros(2, 64)
    for row in range(2):
        for i, token in enumerate(kept[row].tolist()):
            worth[row, token] = weight[row, i] @ local[row, token]
    expected = share / 0.5 * (worth - (share * worth).sum(1, keepdim=True))
    assert_close(scores.grad, expected.detach())


def test_budgets_are_drawn_anew():
    generator = torch.Generator().manual_seed(0)
    assert {routers.drawn(generator) for _ in range(100)} == {*routers.BUDGETS}


def test_stages_follow_one_another_and_train_their_parts(monkeypatch):
    monkeypatch.setattr(fitting, "BATCH", {"crops": 1})
    monkeypatch.setattr(fitting, "PLAN", Plan(steps=4, lr=1e-2, warmup=0, ema=0.0))
    torch.manual_seed(0)
    host, made = house.recipe("vlm_many").build().eval(), routers.InTurns()
    held, changed = fitting.bank(host, 1, "crops"), []
    parts = {name: [id(p) for p in learns(made, name)] for name in STAGES}

    def budgets():
        changed.append({name: p.clone() for name, p in made.named_parameters()})
        return (272,)

    fitting.train(made, host, held, budgets, Options(device="cpu", progress=False))
    changed.append(dict(made.named_parameters()))
    for stage, before, after in zip(STAGES, changed, changed[1:], strict=False):
        moved = {id(p) for name, p in made.named_parameters() if not torch.equal(before[name], after[name])}
        assert moved <= set(parts[stage])
        assert len(moved) > len(parts[stage]) / 2
    assert made.turn == 4
    words = torch.tensor([[0, 9, 12, 1]])
    x, more = torch.randn(1, 5 * 256, 192), signals(1, 192)
    with torch.no_grad():
        assert_close(made.read(host, x, words, 272, **more), host.read(made(x, 272, **more), words))
    assert made.turn == 4
