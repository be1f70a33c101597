import math
from functools import partial

import numpy as np
import pytest
import torch

from minitok.speculate import speculative
from minitok.speculate._common import decode, drafter
from minitok.speculate.lantern import accept, acceptance, borrowed, bound, greedy, nearest, relaxed, residual
from minitok.speculate.speculative import induced, overlap

LINE = torch.tensor([[0.0], [1.0], [3.0], [7.0]])
NEAR = nearest(LINE, 3)
P = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)
Q = torch.tensor([0.7, 0.1, 0.1, 0.1], dtype=torch.float64)


def rows(m, v, seed=0, sharp=2.0):
    draw = torch.Generator().manual_seed(seed)
    return (sharp * torch.randn(m, v, generator=draw, dtype=torch.float64)).softmax(-1)


def rules(neighbours, delta):
    settings = {"neighbours": neighbours, "delta": delta}
    return partial(acceptance, **settings), partial(residual, **settings)


def kept(p, q, neighbours, delta):
    return sum(float(q[x]) * acceptance(p, q, x, neighbours, delta=delta) for x in q.nonzero().flatten().tolist())


def test_four_codes_by_hand():
    # The neighbours of code 0 are 1 (0.2), then 2 (0.3), then 3 (0.4): sums 0.2, 0.5, 0.9.
    assert NEAR.tolist() == [[1, 2, 3], [0, 2, 3], [1, 0, 3], [2, 1, 0]]
    for delta, lent in ((0, 0), (0.19, 0), (0.21, 0.2), (0.49, 0.2), (0.51, 0.5), (1, 0.9)):
        assert acceptance(P, Q, 0, NEAR, delta=delta) == pytest.approx(min(1, (0.1 + lent) / 0.7))
    assert [acceptance(P, Q, x, NEAR) for x in (1, 2, 3)] == [1, 1, 1]
    # Refused without a loan: P - Q above 0 is (0, 0.1, 0.2, 0.3). After one the neighbours' q is 0: (0, 0.2, 0.3, 0.4).
    assert residual(P, Q, 0, NEAR, delta=0.1).tolist() == pytest.approx([0, 1 / 6, 2 / 6, 3 / 6])
    assert residual(P, Q, 0, NEAR, delta=0.21).tolist() == pytest.approx([0, 2 / 9, 3 / 9, 4 / 9])
    assert residual(P, Q, 0, NEAR[:, :1], delta=0.21).tolist() == pytest.approx([0, 2 / 7, 2 / 7, 3 / 7])


def test_delta_is_a_tenth_where_nothing_is_said():
    # Neighbour 1 has 0.0625, and 0.1875 with the next: between 0.1 and 0.15 one lends, the other does not.
    p, q = torch.tensor([0.5, 0.0625, 0.125, 0.3125]), torch.tensor([1.0, 0.0, 0.0, 0.0])
    assert acceptance(p, q, 0, NEAR) == 0.5625
    p = torch.tensor([0.5, 0.125, 0.0625, 0.3125])
    q = torch.tensor([0.5, 0.5, 0.0, 0.0])
    assert acceptance(p, torch.eye(4)[0], 0, NEAR) == 0.5
    assert torch.equal(residual(p, q, 0, NEAR), speculative.residual(p, q, 0))
    drafted, one = torch.tensor([0]), torch.eye(4)[:1]
    sure = torch.tensor([[0.0, 0.125, 0.0, 0.875], [1.0, 0.0, 0.0, 0.0]])
    assert [accept(sure, one, drafted, neighbours=NEAR)[0] for _ in range(50)] == [0] * 50
    close = torch.tensor([[0.4, 0.125, 0.0, 0.475], [1.0, 0.0, 0.0, 0.0]])
    assert greedy(close, one, drafted, neighbours=NEAR) == (0, 3)


def test_nearest_is_that_of_a_plain_loop():
    codebook = torch.randn(23, 3, generator=torch.Generator().manual_seed(0))
    for k in (0, 1, 7, 22):
        found = nearest(codebook, k)
        assert found.shape == (23, k)
        for x in range(23):
            apart = np.linalg.norm(codebook.numpy().astype(np.float64) - codebook[x].numpy(), axis=1)
            assert found[x].tolist() == [y for y in np.argsort(apart, kind="stable").tolist() if y != x][:k]


def test_equally_near_codes_come_in_order():
    grid = torch.cartesian_prod(torch.arange(5.0), torch.arange(5.0)) / 4 - 1
    assert nearest(grid, 4)[12].tolist() == [7, 11, 13, 17]
    assert nearest(torch.zeros(4, 2), 3).tolist() == [[1, 2, 3], [0, 2, 3], [0, 1, 3], [0, 1, 2]]


@pytest.mark.parametrize("shift", [0.0, 1000.0, -30_000.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_far_from_zero_neighbours_are_the_same(shift, dtype):
    # Enough codes that `cdist` would take a product, at places that float32 holds exactly.
    codebook = torch.randint(0, 64, (80, 3), generator=torch.Generator().manual_seed(0)).to(dtype) / 4
    assert torch.equal(nearest(codebook + shift, 79), nearest(codebook.double(), 79))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_narrow_codebooks_have_the_neighbours_of_their_values(dtype):
    codebook = torch.randn(40, 4, generator=torch.Generator().manual_seed(0)).to(dtype)
    assert torch.equal(nearest(codebook, 39), nearest(codebook.float(), 39))


def test_greedy_by_hand():
    # The authors' rule: the loan is added to x, the lenders keep theirs, and the likeliest code decides.
    p = torch.tensor([[2.0, 1.9, 0.0], [0.0, 0.0, 9.0]]).softmax(-1)
    near, one = torch.tensor([[1, 2], [0, 2], [1, 0]]), torch.eye(3)
    for x, delta, expected in (
        (1, 0.6, (1, 2)),
        (1, 0.4, (0, 0)),
        (0, 0.0, (1, 2)),
        (2, 0.5, (1, 2)),
        (2, 0.4, (0, 0)),
    ):
        assert greedy(p, one[x : x + 1], torch.tensor([x]), neighbours=near, delta=delta) == expected
    # Of equal ones the first is the likeliest: with 0.25 lent, 1 has as much as 0.
    p = torch.tensor([[0.5, 0.25, 0.25], [0.5, 0.25, 0.25]])
    assert greedy(p, one[1:2], torch.tensor([1]), neighbours=torch.tensor([[1], [2], [0]]), delta=0.25) == (0, 0)
    assert greedy(p, one[2:], torch.tensor([2]), neighbours=torch.tensor([[1], [2], [0]]), delta=0.5) == (1, 0)


def test_greedy_without_a_loan_is_greedy_decoding():
    def model(seed):
        table = rows(30, 30, seed, sharp=0.5)
        return lambda tokens, m: table[tokens[len(tokens) - m :]]

    near, start, calls, text = nearest(torch.randn(30, 2), 20), torch.tensor([3]), {}, torch.tensor([3])
    for _ in range(40):
        text = torch.cat([text, model(1)(text, 1).argmax(-1)])
    for delta in (0.0, 0.3):
        judge = partial(greedy, neighbours=near, delta=delta)
        made = decode(model(1), drafter(model(2)), judge, start, 40, k=3, generator=torch.Generator().manual_seed(0))
        assert torch.equal(made.tokens, text[1:]) == (delta == 0)
        calls[delta] = made.calls
    assert calls[0.3] < 0.8 * calls[0.0]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("delta", [0.0, 0.03, 0.3, 1])
def test_a_loan_is_that_of_a_plain_loop(seed, delta):
    p, near = rows(1, 17, seed)[0], nearest(torch.randn(17, 2), 9)
    found = borrowed(p, torch.arange(17), near, delta)
    for x in range(17):
        total = 0.0
        for y in near[x].tolist():
            if total + float(p[y]) > delta + 1e-15:
                break
            total += float(p[y])
        assert found[x].item() == pytest.approx(total, abs=1e-12)


@pytest.mark.parametrize("delta", [0.0, 0.05, 0.2, 0.7, 1.0])
@pytest.mark.usefixtures("unchecked")
def test_the_target_that_a_draft_is_judged_by_is_within_delta(delta):
    for seed in range(20):
        p, near = rows(1, 12, seed)[0], nearest(torch.randn(12, 4), 8)
        for x in range(12):
            moved = relaxed(p, x, near, delta)
            away = float((moved - p).abs().sum()) / 2
            assert away <= delta + 1e-12
            assert away == pytest.approx(float(borrowed(p, torch.tensor([x]), near, delta)[0]))
            assert moved.sum().item() == pytest.approx(1)
            q = rows(1, 12, seed + 99)[0]
            assert acceptance(p, q, x, near, delta=delta) == pytest.approx(min(1, float(moved[x] / q[x])))


@pytest.mark.parametrize(("k", "delta"), [(0, 0.3), (6, 0.0), (6, 0)])
def test_without_neighbours_or_delta_the_rule_is_exact(k, delta):
    near = nearest(torch.randn(20, 4), k)
    p, q = rows(2, 20)
    p = torch.where(p < p.median(), 0, p) / p[p >= p.median()].sum()  # with zeros: nothing lent is no loan
    law = induced(p, q, *rules(near, delta))
    torch.testing.assert_close(law, p, atol=1e-12, rtol=0)
    three, two, drafted = rows(3, 20, 3), rows(2, 20, 4), torch.tensor([1, 7])
    for seed in range(20):
        ours = accept(three, two, drafted, torch.Generator().manual_seed(seed), neighbours=near, delta=delta)
        assert ours == speculative.accept(three, two, drafted, torch.Generator().manual_seed(seed))


def test_more_neighbours_and_more_delta_keep_more():
    p, q = rows(2, 60, 5)
    near = nearest(torch.randn(60, 4), 59)
    rates = [[kept(p, q, near[:, :k], delta) for k in (0, 1, 4, 16, 59)] for delta in (0.0, 0.01, 0.05, 0.2, 0.8)]
    grid = torch.tensor(rates)
    assert (grid.diff(dim=0) >= -1e-12).all()
    assert (grid.diff(dim=1) >= -1e-12).all()
    torch.testing.assert_close(grid[0], overlap(p, q).expand(5).float(), atol=1e-6, rtol=0)
    assert grid[-1, -1] > grid[0, 0] + 0.2


def test_delta_does_not_bind_what_comes_out():
    # All that the draft can give is a half of what the target wants; each draft borrows 0.1 and is kept.
    p = torch.full((10,), 0.1, dtype=torch.float64)
    q = torch.tensor([0.2] * 5 + [0.0] * 5, dtype=torch.float64)
    law = induced(p, q, *rules(nearest(torch.arange(10.0)[:, None], 9), 0.1))
    assert float((law - p).abs().sum()) / 2 == pytest.approx(0.5)
    assert bound(p, q) == pytest.approx(0.5)


@pytest.mark.parametrize("seed", range(30))
def test_with_the_exact_residual_kept_drafts_cost_their_number(seed):
    p, q = rows(2, 15, seed)
    near, delta = nearest(torch.randn(15, 3), 5), [0.01, 0.1, 0.5][seed % 3]
    law = induced(p, q, rules(near, delta)[0], speculative.residual)
    away = float((law - p).abs().sum()) / 2
    assert away == pytest.approx(kept(p, q, near, delta) - float(overlap(p, q)), abs=1e-12)


@pytest.mark.slow
@pytest.mark.usefixtures("unchecked")
def test_the_law_in_counts():
    p, q, n = *rows(2, 6, 8), 1_500
    near, generator = nearest(torch.randn(6, 2), 3), torch.Generator().manual_seed(0)
    drafted = torch.multinomial(q, n, replacement=True, generator=generator)
    out = []
    for x in drafted:
        right, after = accept(p.expand(2, 6), q[None], x[None], generator, neighbours=near, delta=0.3)
        out.append(int(x) if right else after)
    expected = n * induced(p, q, *rules(near, 0.3))
    square = float(((torch.tensor(out).bincount(minlength=6) - expected) ** 2 / expected).sum())
    # A chi-square of 5 degrees of freedom is above 36 once in a million.
    assert square < 36
    assert float(((torch.tensor(out).bincount(minlength=6) - n * p) ** 2 / (n * p)).sum()) > 36


@pytest.mark.usefixtures("unchecked")
def test_decoding_takes_fewer_calls():
    def model(seed):
        table = rows(30, 30, seed)
        return lambda tokens, m: table[tokens[len(tokens) - m :]]

    near, calls = nearest(torch.randn(30, 2), 20), {}
    for delta in (0.0, 0.5):
        judge = partial(accept, neighbours=near, delta=delta)
        generator = torch.Generator().manual_seed(0)
        made = decode(model(1), drafter(model(2)), judge, torch.tensor([3]), 200, k=4, generator=generator)
        calls[delta] = made.calls
    assert calls[0.5] < 0.8 * calls[0.0]


@pytest.mark.parametrize("v", [1, 2, 33])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_sizes_and_types(v, dtype):
    p, q = rows(2, v).to(dtype)
    near = nearest(torch.randn(v, 2), v - 1)
    assert 0 <= acceptance(p, q, 0, near) <= 1
    assert residual(p, q, 0, near).dtype == dtype
    assert borrowed(p, torch.zeros(0, dtype=torch.long), near, 0.5).shape == (0,)
    assert accept(p[None], q[:0].view(0, v), torch.zeros(0, dtype=torch.long), neighbours=near)[0] == 0


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: nearest(LINE, 4), "k=4 came, expected 0 to 3"),
        (lambda: nearest(LINE, -1), "k=-1 came"),
        (lambda: nearest(LINE[:, 0], 1), r"codebook of shape \(4,\) came"),
        (lambda: nearest(LINE * math.inf, 1), "codebook of shape .* finite"),
        (lambda: acceptance(P, Q, 0, NEAR, delta=-0.1), "delta=-0.1 came"),
        (lambda: acceptance(P, Q, 0, NEAR, delta=1.5), "delta=1.5 came"),
        (lambda: residual(P, Q, 0, NEAR, delta=math.nan), "delta=nan came"),
        (lambda: acceptance(P, Q, 0, NEAR[:3]), r"neighbours of shape \(3, 3\)"),
        (lambda: acceptance(P, Q, 0, NEAR[0]), r"neighbours of shape \(3,\)"),
        (lambda: acceptance(P, Q, 0, NEAR.double()), "neighbours of .* whole numbers"),
        (lambda: acceptance(P, Q, 0, NEAR + 2), "neighbours from 3 to 5 came, expected 0 to 3"),
        (lambda: acceptance(P, Q, 0, NEAR + 1), "neighbours from 2 to 4 came"),
        (lambda: acceptance(P, Q, 0, NEAR - 2), "neighbours from -1 to 1 came"),
        (lambda: acceptance(P, torch.eye(4)[1].double(), 0, NEAR), "q gives token 0 the probability 0.0"),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
