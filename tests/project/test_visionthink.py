"""VisionThink's rewards, loss and two rounds: by hand, by plain loops, and by drawing many rollouts."""

import math

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from minitok import house
from minitok.project.visionthink import (
    Merger,
    Policy,
    VisionThink,
    advantages,
    chances,
    grpo_loss,
    rewards,
    rollouts,
)


def told(word: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Rollouts by letters: d and a are right, directly or after asking; x and y are wrong."""
    return torch.tensor([[c in "da" for c in word]]), torch.tensor([[c in "ay" for c in word]])


@pytest.mark.parametrize(
    ("word", "worth"),
    [
        ("ddaaxy", [1.5, 1.5, 1.4, 1.4, 0.5, 0.5]),  # half of the right ones were direct: asking is fined
        ("daaaaa", [1.4, 1.5, 1.5, 1.5, 1.5, 1.5]),  # a sixth: luck
        ("daaaax", [1.5, 1.4, 1.4, 1.4, 1.4, 0.5]),  # a fifth is not below a fifth
        ("aaaxxy", [1.5, 1.5, 1.5, 0.5, 0.5, 0.5]),
        ("ddxxyy", [1.5, 1.5, 0.5, 0.5, 0.5, 0.5]),
        ("xxyyyy", [0.5] * 6),
    ],
)
def test_rewards_by_hand(word, worth):
    assert_close(rewards(*told(word)), torch.tensor([worth]))


def test_rewards_have_their_settings():
    correct, asks = told("daaaax")
    formed = torch.tensor([[True, False, True, True, True, False]])
    assert_close(rewards(correct, asks, formed), torch.tensor([[1.5, 0.9, 1.4, 1.4, 1.4, 0.0]]))
    assert_close(rewards(correct, asks, penalty=0.3), torch.tensor([[1.5, 1.2, 1.2, 1.2, 1.2, 0.5]]))
    assert_close(rewards(correct, asks, least=0.3), torch.tensor([[1.4, 1.5, 1.5, 1.5, 1.5, 0.5]]))
    constant = rewards(*told("daaaaa"), least=0.0)
    assert_close(constant, torch.tensor([[1.5, 1.4, 1.4, 1.4, 1.4, 1.4]]))
    both = rewards(torch.cat([correct, *told("aaaxxy")[:1]]), torch.cat([asks, told("aaaxxy")[1]]))
    assert_close(both[:1], rewards(correct, asks))


def test_advantages_count_from_their_own_question():
    worth = torch.tensor([[1.0, 2.0, 3.0, 6.0], [5.0, 5.0, 5.0, 5.0]])
    mean, spread = 3.0, math.sqrt((4 + 1 + 0 + 9) / 3)
    expected = [[(value - mean) / spread for value in (1, 2, 3, 6)], [0.0] * 4]
    assert_close(advantages(worth), torch.tensor(expected))


def test_chances_are_those_of_what_was_done():
    found = chances(torch.tensor([0.0, math.log(3)]), torch.tensor([[True, False], [True, False]])).exp()
    assert_close(found, torch.tensor([[0.5, 0.5], [0.75, 0.25]]))


def by_loop(logits, old, reference, asks, worth, clip=0.2, kl=0.001, entropy=0.001):
    total, count = 0.0, 0
    for i in range(len(worth)):
        row = worth[i].tolist()
        mean = sum(row) / len(row)
        spread = math.sqrt(sum((value - mean) ** 2 for value in row) / (len(row) - 1))
        if spread < 1e-4:
            continue
        p, q, r = (1 / (1 + math.exp(-float(part[i]))) for part in (logits, old, reference))
        for value, ask in zip(row, asks[i].tolist(), strict=True):
            mine, before, first = (s if ask else 1 - s for s in (p, q, r))
            better, ratio = (value - mean) / spread, mine / before
            gain = min(ratio * better, min(max(ratio, 1 - clip), 1 + clip) * better)
            apart = math.log(first / mine)
            own = -p * math.log(p) - (1 - p) * math.log(1 - p)
            total += kl * (math.exp(apart) - apart - 1) - gain - entropy * own
            count += 1
    return total / count


@pytest.mark.parametrize("settings", [{}, {"clip": 0.05}, {"kl": 2.0}, {"entropy": 3.0}])
def test_the_loss_is_that_of_a_plain_loop(settings):
    torch.manual_seed(0)
    logits, old, reference = torch.randn(3, 6)
    asks, correct = torch.rand(6, 16) < 0.5, torch.rand(6, 16) < 0.5
    worth = rewards(correct, asks)
    worth[2] = 1.5
    found = grpo_loss(logits, old, reference, asks, worth, **settings)
    assert_close(found.item(), by_loop(logits, old, reference, asks, worth, **settings), rtol=1e-4, atol=1e-5)


def test_the_first_step_goes_towards_what_was_worth_more():
    logits = torch.zeros(2, requires_grad=True)
    asks = torch.tensor([[True, True, False, False]]).expand(2, -1)
    worth = torch.tensor([[1.4, 1.4, 0.5, 0.5], [1.4, 1.4, 1.5, 1.5]])
    loss = grpo_loss(logits, torch.zeros(2), torch.zeros(2), asks, worth, entropy=0.0)
    up, down = torch.autograd.grad(loss, logits)[0].tolist()
    assert up == pytest.approx(-down, rel=1e-4)  # a penalty of 0.1 pulls as hard as a wrong answer
    assert up < 0


def test_where_all_are_worth_the_same_nothing_is_learnt():
    logits = torch.randn(3, requires_grad=True)
    loss = grpo_loss(logits, torch.zeros(3), torch.zeros(3), torch.rand(3, 4) < 0.5, torch.ones(3, 4))
    assert (loss.item(), torch.autograd.grad(loss, logits)[0].tolist()) == (0, [0, 0, 0])


def test_rollouts_follow_their_chances():
    torch.manual_seed(0)
    asks, correct = rollouts(torch.tensor([1.0]), torch.tensor([0.3]), torch.tensor([0.9]), 40_000)
    assert float(asks.float().mean()) == pytest.approx(1 / (1 + math.exp(-1)), abs=0.015)
    assert float(correct[asks].float().mean()) == pytest.approx(0.9, abs=0.015)
    assert float(correct[~asks].float().mean()) == pytest.approx(0.3, abs=0.03)
    assert rollouts(torch.zeros(2), torch.zeros(2), torch.ones(2))[0].shape == (2, 16)


def test_the_policy_begins_undecided():
    policy = Policy(6, 8)
    assert policy(torch.randn(2, 3, 6)).tolist() == [[0.0] * 3] * 2
    weights = dict(policy.requires_grad_(False).named_parameters())
    nn.init.normal_(weights["layers.3.weight"])
    x = torch.randn(4, 6)
    normed = (x - x.mean(1, keepdim=True)) / (x.var(1, correction=0, keepdim=True) + 1e-5).sqrt()
    wide = normed @ weights["layers.1.weight"].T + weights["layers.1.bias"]
    expected = (wide * (1 + torch.erf(wide / 2**0.5)) / 2) @ weights["layers.3.weight"][0]
    assert_close(policy(x), expected, atol=1e-5, rtol=1e-4)
    assert wide.shape == (4, 8)


def test_four_neighbours_become_a_token():
    made, x = Merger(3, 5, 16), torch.randn(2, 32, 3)
    tokens = made(x)
    assert tokens.shape == (2, 8, 5)
    assert_close(tokens[:, 1], made.mlp(x[:, [2, 3, 6, 7]].flatten(1)[:, None])[:, 0])
    assert_close(tokens[:, 6], made.mlp(x[:, [24, 25, 28, 29]].flatten(1)[:, None])[:, 0])


class Knows(nn.Module):
    """A policy that asks where the state's first number is below that of another state."""

    def __init__(self, least: float) -> None:
        super().__init__()
        self.least = least

    def forward(self, state):
        return self.least - state[:, 0]


def test_those_who_ask_are_read_a_second_time():
    torch.manual_seed(0)
    host = house.recipe("vlm_many").build().eval().requires_grad_(False)
    x, words = torch.randn(3, 5 * 256, 192), torch.tensor([[0, 9, 12, 1], [40, 41, 17, 1], [0, 0, 31, 1]])
    tokens, text = host.project(x), host.word(words)
    small, large = host.read(tokens[:, :64], words), host.read(tokens, words)
    order = small[:, -1, 0].argsort()
    made = VisionThink(host.project, Knows(float(small[order[1], -1, 0])))  # one is below, the second is not
    found = made.read(host, x, words, text=text)
    expected = small.clone()
    expected[order[0]] = large[order[0]]
    assert_close(found, expected, atol=1e-5, rtol=1e-4)
    nobody = VisionThink(host.project, Knows(-1e9))
    assert_close(nobody.read(host, x, words, text=text), small)
    assert_close(made.read(host, x, words, 64, text=text), small)
    assert_close(made.read(host, x, words, 320, text=text), large)
    assert_close(VisionThink(host.project).read(host, x, words, text=text), large)
    slots = torch.tensor([0, 0, 1, 1])
    assert_close(nobody.read(host, x, words, slots=slots, text=text), host.read(tokens[:, :64], words, slots=slots))
    assert_close(
        VisionThink(host.project, Knows(1e9)).read(host, x, words, slots=slots, text=text),
        host.read(tokens, words, slots=slots),
    )
    assert_close(nobody.read(host, x, words, text=text * 2), host.read(tokens[:, :64], words, text=text * 2))
    assert_close(VisionThink(host.project).read(host, x, words, text=text * 2), host.read(tokens, words, text=text * 2))


def test_budgets_are_the_thumbnail_and_all():
    torch.manual_seed(0)
    made, x = VisionThink(c=4, d=6, n=16), torch.randn(2, 5 * 16, 4)
    assert made(x).shape == (2, 20, 6)
    assert_close(made(x, 4), made(x[:, :16]))
    assert_close(made(x, 20), made(x))
    assert (made.small, made.budgets, VisionThink().budgets) == (4, (4,), (64,))
    assert VisionThink()(torch.zeros(1, 256, 192)).shape == (1, 64, 192)
    assert [tuple(w.shape) for w in Policy().layers[1].parameters()] == [(64, 192), (64,)]


@pytest.mark.usefixtures("unchecked")
def test_bad_input_is_named():
    for k in (5, 16):
        with pytest.raises(ValueError, match=f"k={k} came, expected 4 .the thumbnail. or all 20"):
            VisionThink(c=4, d=6, n=16)(torch.zeros(1, 5 * 16, 4), k)
