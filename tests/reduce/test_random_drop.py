import itertools
import math

import pytest
import torch

from minitok.reduce.random_drop import random_drop


def drawn(b, n, k, seed: int | torch.Generator = 0):
    return random_drop(torch.zeros(b, n, 1), k, seed=seed).order


def test_the_highest_lots_stay():
    lots = torch.rand(3, 12, generator=torch.Generator().manual_seed(7)).tolist()
    expected = [sorted(sorted(range(12), key=lambda i: -row[i])[:5]) for row in lots]
    assert drawn(3, 12, 5, seed=7).tolist() == expected


def test_kept_tokens_are_as_they_were():
    x = torch.randn(2, 9, 4)
    reduction = random_drop(x, 4, seed=3)
    for row, kept, tokens in zip(x, reduction.order.tolist(), reduction.apply(x), strict=True):
        assert torch.equal(tokens, torch.stack([row[i] for i in kept]))
    restored = reduction.restore(reduction.apply(x))
    assert torch.equal(restored.abs().sum(-1) > 0, reduction.matrix().sum(1) > 0)


@pytest.mark.parametrize(("n", "k"), [(5, 2), (4, 1), (4, 3), (3, 3)])
def test_all_sets_are_equally_likely(n, k):
    # Chi-squared over the sets; the bound lies beyond a tail of 1e-6 (Laurent and Massart, 2000).
    draws, sets = 20_000, list(itertools.combinations(range(n), k))
    found = [tuple(row) for row in drawn(draws, n, k).tolist()]
    expected, freedom = draws / len(sets), len(sets) - 1
    statistic = sum((found.count(one) - expected) ** 2 / expected for one in sets)
    tail = math.log(1e6)
    assert statistic < freedom + 2 * math.sqrt(freedom * tail) + 2 * tail
    assert set(found) <= set(sets)


def test_a_number_draws_the_same_and_another_number_something_else():
    assert torch.equal(drawn(4, 50, 20, seed=1), drawn(4, 50, 20, seed=1))
    assert not torch.equal(drawn(4, 50, 20, seed=1), drawn(4, 50, 20, seed=2))


def test_a_generator_goes_on_drawing():
    generator = torch.Generator().manual_seed(1)
    first, second = (drawn(4, 50, 20, seed=generator) for _ in range(2))
    assert torch.equal(first, drawn(4, 50, 20, seed=1))
    assert not torch.equal(first, second)


def test_the_global_generator_is_left_alone():
    before = torch.get_rng_state()
    drawn(2, 10, 3)
    assert torch.equal(torch.get_rng_state(), before)


def test_rows_have_draws_of_their_own_and_the_content_has_no_say():
    rows = {tuple(row) for row in drawn(30, 40, 20).tolist()}
    assert len(rows) == 30
    assert torch.equal(random_drop(torch.randn(30, 40, 3), 20).order, drawn(30, 40, 20))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize(("n", "k"), [(1, 1), (7, 7), (7, 1), (8, 3)])
def test_sizes_and_types(dtype, n, k):
    x = torch.randn(2, n, 3).to(dtype)
    reduction = random_drop(x, k)
    assert reduction.apply(x).dtype == dtype
    assert reduction.apply(x).shape == (2, k, 3)
    assert torch.equal(reduction.order, drawn(2, n, k))
    assert reduction.sizes(torch.ones(2, n, dtype=dtype)).tolist() == [[1] * k] * 2


@pytest.mark.parametrize(
    ("x", "k", "message"),
    [
        (torch.zeros(2, 8, 3), 0, "k=0 came, expected a whole number from 1 to the 8 tokens of x"),
        (torch.zeros(2, 8, 3), 9, "k=9 came"),
        (torch.zeros(2, 8, 3), True, "k=True came"),
        (torch.zeros(2, 0, 3), 1, "k=1 came, expected a whole number from 1 to the 0 tokens"),
        (torch.zeros(8, 3), 2, r"x of shape \(8, 3\) came, expected \(b, n, c\)"),
        (torch.zeros(2, 8, 3, dtype=torch.long), 2, "x of type torch.int64 came"),
        (torch.full((2, 8, 3), torch.inf), 2, "x holds NaN or infinity"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_bad_input_is_refused(x, k, message):
    with pytest.raises(ValueError, match=message):
        random_drop(x, k)
