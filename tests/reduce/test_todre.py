import itertools

import pytest
import torch
import torch.nn.functional as F

from minitok.reduce.divprune import divprune
from minitok.reduce.todre import finished, max_sum, ratios, todre

# Directions in degrees: 0, 90, 95, 180 and 300.
ANGLE = torch.tensor([0.0, 90.0, 95.0, 180.0, 300.0]).deg2rad()
FIVE = torch.stack([ANGLE.cos(), ANGLE.sin()], -1)[None] * torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0])[:, None]


def naive(x, pivot, k):
    """The walk of one row with all pairs looked up anew in each step."""
    u, chosen = F.normalize(x, dim=-1), [pivot]
    while len(chosen) < k:
        left = [v for v in range(len(x)) if v not in chosen]
        chosen.append(min(left, key=lambda v: (sum(float(u[v] @ u[c]) for c in chosen), v)))
    return chosen


def looking_at(*tokens, n=5):
    """What one head of CLS pays: more to the earlier of these tokens."""
    return torch.tensor([[[float(len(tokens) - tokens.index(j)) if j in tokens else 0.0 for j in range(n)]]])


def test_five_tokens_by_hand():
    # From 0 degrees 180 is opposite (-1).
    assert max_sum(FIVE, torch.tensor([0]), 2).tolist() == [[0, 3]]
    # From 90 degrees: 300 has -0.866, 180 and 0 have 0, 95 has 0.996.
    assert max_sum(FIVE, torch.tensor([1]), 2).tolist() == [[1, 4]]
    # Then 180: 0 - 0.5; 0: 0 + 0.5; 95: 0.996 - 0.906.
    assert max_sum(FIVE, torch.tensor([1]), 5).tolist() == [[1, 4, 3, 0, 2]]
    assert todre(FIVE, 3, cls_attention=looking_at(1)).order.tolist() == [[1, 3, 4]]
    assert todre(FIVE, 2, cls_attention=looking_at(1)).apply(FIVE).tolist() == FIVE[:, [1, 4]].tolist()
    assert todre(FIVE, 1, cls_attention=looking_at(2, 4)).order.tolist() == [[2]]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("n", "k"), [(2, 2), (9, 4), (20, 13), (20, 20)])
def test_running_sums_are_the_naive_walk(seed, n, k):
    x = torch.randn(3, n, 6, generator=torch.Generator().manual_seed(seed))
    pivot = torch.tensor([0, n - 1, n // 2])
    expected = [naive(row, start, k) for row, start in zip(x, pivot.tolist(), strict=True)]
    assert max_sum(x, pivot, k).tolist() == expected


def test_three_of_them_are_near_the_best_sum_of_distances():
    for seed in range(10):
        u = F.normalize(torch.randn(9, 4, generator=torch.Generator().manual_seed(seed)), dim=-1)
        distance = 1 - u @ u.T

        def spread(chosen, distance=distance):
            return sum(float(distance[i, j]) for i, j in itertools.combinations(chosen, 2))

        best = max(spread(some) for some in itertools.combinations(range(9), 4))
        found = max(spread(max_sum(u[None], torch.tensor([i]), 4)[0].tolist()) for i in range(9))
        assert best * 0.9 < found <= best + 1e-5


def test_the_largest_sum_is_not_the_largest_minimum():
    # From 0 and 179 degrees on, 183 sums to -0.001 and 90 to 0.017: a near copy adds more to the sum.
    angle = torch.tensor([0.0, 179.0, 183.0, 90.0]).deg2rad()
    x = torch.stack([angle.cos(), angle.sin()], -1)[None]
    assert todre(x, 3, cls_attention=looking_at(0, n=4)).order.tolist() == [[0, 1, 2]]
    assert divprune(x, 3).order.tolist() == [[0, 1, 3]]


def test_heads_are_summed_for_the_pivot():
    attention = torch.zeros(1, 3, 5)
    attention[0, :, 2], attention[0, 0, 4] = 0.3, 0.5
    assert todre(FIVE, 1, cls_attention=attention).order.tolist() == [[2]]
    assert todre(FIVE, 1, cls_attention=attention[:, :1]).order.tolist() == [[4]]


def test_length_does_not_count():
    x, cls = torch.randn(2, 12, 4), torch.rand(2, 2, 12)
    longer = x * torch.rand(2, 12, 1).add(0.1)
    assert torch.equal(todre(longer, 5, cls_attention=cls).order, todre(x, 5, cls_attention=cls).order)


def test_without_cls_the_pivot_is_drawn():
    x = torch.randn(6, 50, 4)
    pivots = [todre(x, 1, seed=seed).order.flatten().tolist() for seed in range(3)]
    assert pivots[0] == todre(x, 1).order.flatten().tolist() != pivots[1]
    assert len({place for row in pivots for place in row}) > 10
    state = torch.get_rng_state()
    todre(x, 3)
    assert torch.equal(torch.get_rng_state(), state)
    pivot = torch.tensor(pivots[1])
    assert torch.equal(todre(x, 7, seed=1).order, max_sum(x, pivot, 7).sort(1).values)


def test_copies_are_not_chosen_twice():
    x = torch.ones(1, 6, 3)
    x[0, 4] = torch.tensor([1.0, -1.0, 0.0])
    assert todre(x, 6, cls_attention=torch.ones(1, 1, 6)).order.tolist() == [list(range(6))]
    assert todre(x, 3, cls_attention=torch.ones(1, 1, 6)).order.tolist() == [[0, 1, 4]]
    assert todre(torch.zeros(1, 6, 3), 2, cls_attention=torch.ones(1, 1, 6)).order.tolist() == [[0, 1]]


def test_the_nearly_equal_are_told_apart_in_half_precision():
    angle = torch.tensor([0.0, 6.0, 3.0, 9.0]).deg2rad()
    x = torch.stack([angle.cos() * 8, angle.sin() * 8], -1)[None].bfloat16()
    assert todre(x, 2, cls_attention=torch.ones(1, 1, 4).bfloat16()).order.tolist() == [[0, 3]]


# A system prompt of one token, two visual tokens, two words; two heads. Rows pay, and add up to 1.
MAP = torch.tensor(
    [
        [[1, 0, 0, 0, 0], [0.5, 0.5, 0, 0, 0], [0.5, 0.25, 0.25, 0, 0], [0.5, 0.25, 0, 0.25, 0], [0.5, 0, 0, 0, 0.5]],
        [[1, 0, 0, 0, 0], [1, 0, 0, 0, 0], [1, 0, 0, 0, 0], [0.75, 0, 0.25, 0, 0], [1, 0, 0, 0, 0]],
    ]
)[None]


def test_ratios_by_hand():
    # Words pay 0.25 and 0.25 of 4 to visual tokens.
    assert ratios(MAP, 2, first=1).tolist() == [[0.125, 0]]
    # With the prompt among the visual ones they pay 0.5 + 0.25 + 0.5 and 0.75 + 0.25 + 1 of 4; two visual ones first:
    assert ratios(MAP, 3).tolist() == [[(1.25 + 2) / 4, 0]]
    assert finished(MAP, 2, first=1).tolist() == [False]
    assert finished(MAP, 2, first=1, tau=0.126).tolist() == [True]
    assert finished(MAP, 2, first=1, tau=0.125).tolist() == [False]


def test_a_single_visual_token_and_no_prompt_will_do():
    # All but token 0 pay 0.5 + 0.5 + 0.5 + 0.5 and 1 + 1 + 0.75 + 1 of 8 to it.
    assert ratios(MAP, 1).tolist() == [[pytest.approx(5.75 / 8), 0]]


def test_tokens_may_have_one_channel():
    x = torch.tensor([[[2.0], [3.0], [-1.0], [-4.0]]])
    assert todre(x, 2, cls_attention=looking_at(1, n=4)).order.tolist() == [[1, 2]]


def test_both_ratios_must_be_small():
    attention = torch.rand(40, 2, 9, 9).pow(6)
    attention = attention / attention.sum(-1, keepdim=True)
    found = ratios(attention, 4, first=2)
    for row, (words, visual) in zip(attention.tolist(), found.tolist(), strict=True):
        sums = [[sum(head[i][j] for head in row) for j in range(9)] for i in range(9)]
        assert words == pytest.approx(sum(sums[i][j] for i in (6, 7, 8) for j in range(2, 6)) / 6, abs=1e-5)
        assert visual == pytest.approx(sum(sums[i][j] for i in range(2, 6) for j in (6, 7, 8)) / 8, abs=1e-5)
    done = finished(attention, 4, first=2, tau=0.4)
    assert done.tolist() == [max(pair) < 0.4 for pair in found.tolist()]
    assert 0 < int(done.sum()) < int((found[:, 0] < 0.4).sum())


X, CLS = torch.randn(2, 6, 3), torch.rand(2, 2, 6)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: todre(X, 0, cls_attention=CLS), "k=0 came, expected a whole number from 1 to the 6 tokens"),
        (lambda: todre(X, 7), "k=7 came"),
        (lambda: todre(X[0], 2), r"x of shape \(6, 3\) came"),
        (lambda: todre(X / 0, 2), "x holds NaN or infinity"),
        (lambda: todre(X, 2, cls_attention=CLS[:, 0]), "cls_attention of shape"),
        (lambda: todre(X, 2, cls_attention=CLS[..., 1:]), r"shape \(2, 2, 5\) came, expected \(2, any, 6\)"),
        (lambda: todre(X, 2, cls_attention=CLS[:, :0]), "cls_attention of no heads came"),
        (lambda: todre(X, 2, cls_attention=CLS * torch.nan), "cls_attention holds NaN"),
        (lambda: ratios(MAP, 5), "n=5 and first=0 came for 5 tokens, expected visual tokens and words"),
        (lambda: ratios(MAP, 0, first=2), "n=0 and first=2 came"),
        (lambda: ratios(MAP, 2, first=3), "n=2 and first=3 came"),
        (lambda: ratios(MAP, 2, first=-1), "n=2 and first=-1 came"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_bad_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
