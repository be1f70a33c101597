"""VisionThink's stage with a host that has learnt nothing: both rounds, the files, the training, the outcomes."""

import json

import pytest
import torch
from torch.testing import assert_close

from minitok import files, house
from minitok.data.questions import KINDS
from minitok.stages import asking, seeing
from minitok.stages.asking import States, outcome


@pytest.fixture(scope="module")
def host():
    torch.manual_seed(0)
    made = house.recipe("vlm_many").build().eval().requires_grad_(False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(house, "load", lambda name: made)
        yield made


def drawn_states(n: int = 600) -> States:
    """Questions whose state says in its sign whether the crops are needed: half of them."""
    torch.manual_seed(1)
    needed = torch.arange(n) % 2 == 1
    hidden = torch.randn(n, 8) * 0.3
    hidden[:, 0] += torch.where(needed, 2.0, -2.0)
    small = torch.where(needed, 0.05, 0.98)
    kind = torch.where(needed, KINDS.index("digit"), KINDS.index("colour"))
    hits = torch.stack([~needed, torch.ones_like(needed)], 1)
    return States(hidden, small, torch.full((n,), 0.97), 0.9 - 0.5 * needed + 0.01 * torch.rand(n), hits, kind)


def test_both_rounds_are_those_of_single_questions(host, tmp_path, monkeypatch):
    made = asking.look_twice(host, 1, 7)
    drawn = seeing.draw("crops", 1, 7)
    tokens = host.project(seeing.look(host, drawn.pictures))
    asked = drawn.asked[drawn.asked.kind >= 0]
    assert made.kind.tolist() == asked.kind.tolist()
    for i in (0, len(made) - 1):
        words, right = asked.words[i][None], int(asked.answer[i, 0])
        small = host.read(tokens[:, :64], words)[:, -1]
        chances = [host.head(small).softmax(-1)[0], host.answer_logits(tokens, words).softmax(-1)[0]]
        assert_close(made.hidden[i], small[0], atol=1e-4, rtol=1e-3)
        assert_close(torch.stack([made.small[i], made.large[i]]), torch.stack([c[right] for c in chances]))
        assert_close(made.sure[i], chances[0].max())
        assert made.hits[i].tolist() == [int(c.argmax()) == right for c in chances]
    monkeypatch.setattr(asking, "SCENES", {"trained": (1, 7), "held": (1, 8)})
    asking.write(tmp_path)
    again = asking.load("trained", tmp_path)
    for name, part in vars(made).items():
        assert_close(vars(again)[name], part, atol=2e-3, rtol=2e-3)
    assert not torch.equal(asking.load("held", tmp_path).hidden, again.hidden)
    card = json.loads((tmp_path / "card.json").read_text())
    assert card["sha256"]["held"] == files.sha256(tmp_path / "held.safetensors")


def test_a_policy_learns_to_ask_where_it_pays():
    held = drawn_states()
    policy, asked = asking.train(held, steps=40)
    found = outcome(policy(held.hidden) > 0, held)
    assert found.right > 97
    assert 45 < found.asked < 55
    assert len(asked) == 40
    assert asked[0] == pytest.approx(50, abs=5)
    assert found.of("digit").asked > 97
    free, _ = asking.train(held, steps=40, penalty=0.0)
    assert outcome(free(held.hidden) > 0, held).asked >= found.asked
    assert asking.train(held, steps=2, seed=0)[1] == asked[:2]
    assert asking.train(held, steps=2, seed=1)[1] != asked[:2]
    slow, _ = asking.train(held, steps=2, lr=1e-6)
    assert float(slow(held.hidden).abs().max()) < 1e-3


def test_the_settings_of_rewards_decide_what_is_learnt():
    torch.manual_seed(0)
    one = torch.ones(200)
    held = States(torch.randn(200, 8), one, one, one, torch.ones(200, 2, dtype=torch.bool), one.long())
    asked = {}
    for name, settings in {"fined": {}, "liked": {"penalty": -0.1}, "always lucky": {"least": 1.1}}.items():
        policy, _ = asking.train(held, steps=30, **settings)
        asked[name] = outcome(policy(held.hidden) > 0, held).asked
    assert asked == {"fined": 0, "liked": 100, "always lucky": 100}


def test_outcomes_count_tokens_of_both_rounds():
    held = drawn_states(4)
    asks = torch.tensor([False, True, True, False])
    found = outcome(asks, held)
    assert (found.right, found.asked, found.tokens) == (75, 50, 64 + 160)
    assert found.of("digit").right == 50
    assert found.of("colour").tokens == 64 + 160
    assert outcome(torch.ones(4, dtype=torch.bool), held, first=False).tokens == 320
    told = asking.table({"ours": found}, ("colour", "digit")).splitlines()
    assert told[0].split("  ")[-1].strip() == "digit: right, asks"
    assert told[1].split()[:4] == ["ours", "75.0", "50.0", "224"]
    never = outcome(~asks & asks, held)
    better, error = asking.gap(found, never)
    assert better == 25
    assert error == pytest.approx(2 * 50 / 2)
    both = asking.mean([found, never])
    assert (both.right, both.asked, both.tokens) == (62.5, 25, 64 + 80)


def test_a_threshold_asks_where_one_is_least_sure():
    held = drawn_states()
    least = asking.threshold(held, 0.25)
    assert float((held.sure < least).float().mean()) == pytest.approx(0.25, abs=0.01)
    assert held[held.sure < least].kind.unique().tolist() == [KINDS.index("digit")]
