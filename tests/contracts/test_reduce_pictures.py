"""How a budget is shared among pictures, and the best tokens of each."""

import pytest
import torch
from torch.testing import assert_close

from minitok.reduce._pictures import shared, within


def by_turns(weights, k, most):
    """One token after another to whose weight over (tokens so far + 1) is highest."""
    budgets = [0] * len(weights)
    for _ in range(k):
        free = [i for i in range(len(weights)) if budgets[i] < most]
        budgets[max(free, key=lambda i: (weights[i] / (budgets[i] + 1), -budgets[i], -i))] += 1
    return budgets


@pytest.mark.parametrize("k", [1, 2, 7, 12, 19, 20])
def test_a_budget_goes_round_by_turns(k):
    weights = torch.randint(0, 6, (50, 4), generator=torch.Generator().manual_seed(k)).double() / 7
    found = shared(weights, k, 5)
    assert found.tolist() == [by_turns(row, k, 5) for row in weights.tolist()]
    assert (found.sum(1) == k).all()


def test_each_gets_at_least_the_whole_part_of_its_share():
    weights = torch.rand(200, 5, dtype=torch.double)
    shares = 80 * weights / weights.sum(1, keepdim=True)
    assert (shared(weights, 80, 80) >= shares.floor()).all()
    assert_close(shared(torch.tensor([[32.0, 16.0, 8.0, 8.0]]), 64, 64), torch.tensor([[32, 16, 8, 8]]))


def test_without_weights_all_get_alike_and_the_full_pass_on():
    assert shared(torch.zeros(1, 3), 7, 4).tolist() == [[3, 2, 2]]
    assert shared(torch.tensor([[9.0, 1.0, 0.0]]), 7, 4).tolist() == [[4, 3, 0]]
    assert shared(torch.tensor([[9.0, 1.0, 0.0]]), 9, 4).tolist() == [[4, 4, 1]]


def test_the_best_of_each_picture_are_those_of_its_own_sort():
    scores = torch.randint(0, 5, (6, 24)).float()
    budgets = torch.tensor([[3, 0, 8], [1, 5, 5], [8, 3, 0], [4, 4, 3], [0, 8, 3], [2, 1, 8]])
    for row, budget, found in zip(scores.tolist(), budgets.tolist(), within(scores, budgets, 11).tolist(), strict=True):
        best = [sorted(range(8 * j, 8 * j + 8), key=lambda i: (-row[i], i))[: budget[j]] for j in range(3)]
        assert found == sorted(i for part in best for i in part)


@pytest.mark.usefixtures("unchecked")
def test_what_cannot_be_shared_is_refused():
    with pytest.raises(ValueError, match="weights down to -1 came, expected at least 0"):
        shared(torch.tensor([[1.0, -1.0]]), 2, 4)
    with pytest.raises(ValueError, match="k=9 came, expected a whole number from 1 to the 8 tokens"):
        shared(torch.ones(1, 2), 9, 4)
    with pytest.raises(ValueError, match="weights of shape"):
        shared(torch.ones(2), 1, 4)
