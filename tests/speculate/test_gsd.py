import inspect
import math
from functools import partial
from typing import Any

import pytest
import torch

from minitok.speculate import speculative
from minitok.speculate._common import decode, drafter
from minitok.speculate.gsd import Jacobi, accept, acceptance, acceptances, bound, by_cluster, group, residual
from minitok.speculate.speculative import induced, overlap

P = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)
Q = torch.tensor([0.2, 0.4, 0.3, 0.1], dtype=torch.float64)
FLAT = torch.zeros(4, 1)
HALF: Any = 1.5


def rows(m, v, seed=0, sharp=1.0):
    draw = torch.Generator().manual_seed(seed)
    return (sharp * torch.randn(m, v, generator=draw, dtype=torch.float64)).softmax(-1)


def plain_group(p, x, codebook, window, gap, radius):
    """The group of one code, as a list, by a loop over ranks."""
    order = sorted(range(len(p)), key=lambda y: (float(p[y]), y))
    rank = order.index(x)
    if rank - window < 0:
        return [x]
    found = []
    for y in order[rank - window : rank + window]:
        apart = sum(float(a - b) ** 2 for a, b in zip(codebook[x], codebook[y], strict=True))
        if abs(float(p[y] - p[x])) < gap and apart < radius:
            found.append(y)
    return sorted({*found, x})


def test_four_codes_by_hand():
    # Ranks are 0, 1, 2, 3. With a window of 1 the group is x and the one below; the lowest is alone.
    found = [acceptance(P, Q, x, FLAT, window=1, gap=1) for x in range(4)]
    assert found == pytest.approx([0.1 / 0.2, 0.3 / 0.6, 0.5 / 0.7, 1])
    # With a window of 2: two below, one above, cut off at the top; those below rank 2 are alone.
    found = [acceptance(P, Q, x, FLAT, window=2, gap=1) for x in range(4)]
    assert found == pytest.approx([0.5, 0.5, 1, 1])
    assert acceptance(P, Q, 2, FLAT, window=2, gap=0.15) == pytest.approx(0.9 / 0.8 if 0.9 < 0.8 else 1)
    # A gap of 0.15 leaves 0.2, 0.3 and 0.4, one of 0.05 leaves 0.3 alone.
    members, inside = group(P, torch.tensor([2]), FLAT, window=2, gap=0.15)
    assert members[inside].tolist() == [2, 1, 3]
    assert acceptance(P, Q, 1, FLAT, window=1, gap=0.05) == pytest.approx(0.5)
    far = torch.tensor([[0.0], [0.5], [1.5], [5.0]])
    assert acceptance(P, Q, 2, far, window=1, radius=1.1) == pytest.approx(0.5 / 0.7)
    assert acceptance(P, Q, 2, far, window=1, radius=0.9) == pytest.approx(1)


def test_gap_and_radius_are_exclusive():
    p, line = torch.tensor([0.125, 0.25, 0.25, 0.375]), torch.tensor([[0.0], [0.5], [1.0], [1.5]])

    def members(**settings):
        found, inside = group(p, torch.tensor([2]), line, window=2, **settings)
        return sorted(found[inside].tolist())

    assert members(gap=0.125, radius=9) == [1, 2]
    assert members(gap=0.1251, radius=9) == [0, 1, 2, 3]
    assert members(gap=1, radius=0.25) == [2]
    assert members(gap=1, radius=0.2501) == [1, 2, 3]
    assert members(gap=1, radius=1) == [1, 2, 3]


def test_accept_and_bound_use_every_setting():
    # The target wants code 3 alone and the draft gives 2 alone: 2 is kept if 3 is in its group, and never else.
    p, q, line = torch.eye(4)[[3, 3]], torch.eye(4)[2:3], torch.arange(4.0)[:, None]
    for settings, kept in (
        ({"window": 2, "gap": 2, "radius": 2}, 1),
        ({"window": 1, "gap": 2, "radius": 2}, 0),
        ({"window": 2, "gap": 1, "radius": 2}, 0),
        ({"window": 2, "gap": 2, "radius": 1}, 0),
    ):
        assert accept(p, q, torch.tensor([2]), codebook=line, **settings) == (kept, 3)
        assert bound(p[0], q[0], line, **settings) == kept
    assert accept(p, q, torch.tensor([2]), codebook=line) == (0, 3)


@pytest.mark.parametrize("function", [group, acceptance, accept, bound])
def test_where_nothing_is_said_settings_are_those_of_the_authors_code(function):
    # Slice idx - 7 : idx + 7, 0.15 and 0.5.
    asked = inspect.signature(function).parameters
    assert [asked[name].default for name in ("window", "gap", "radius")] == [7, 0.15, 0.5]


def test_the_bound_by_hand():
    # Kept: 0.2 / 2, 0.4 / 2, 0.3 of 5 / 7, 0.1; by the exact rule 0.1, 0.2, 0.3, 0.1.
    assert bound(P, Q, FLAT, window=1, gap=1) == pytest.approx(0.3 * 2 / 7)
    # A window of 2: 0.1, 0.2, 0.3 and 0.1, as above.
    assert bound(P, Q, FLAT, window=2, gap=1) == pytest.approx(0)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(("window", "gap", "radius"), [(7, 0.15, 0.5), (3, 0.02, 9.0), (1, 1.0, 0.3), (20, 0.05, 2.0)])
@pytest.mark.usefixtures("unchecked")
def test_groups_are_those_of_a_plain_loop(seed, window, gap, radius):
    p, q = rows(2, 31, seed)
    codebook = torch.randn(31, 2, generator=torch.Generator().manual_seed(seed)) / 2
    members, inside = group(p, torch.arange(31), codebook, window=window, gap=gap, radius=radius)
    for x in range(31):
        expected = plain_group(p, x, codebook, window, gap, radius)
        assert sorted(members[x][inside[x]].tolist()) == expected
        ratio = sum(float(p[y]) for y in expected) / sum(float(q[y]) for y in expected)
        found = acceptance(p, q, x, codebook, window=window, gap=gap, radius=radius)
        assert found == pytest.approx(min(1, ratio))


def test_equal_probabilities_rank_by_code():
    p = torch.full((8,), 1 / 8)
    members, inside = group(p, torch.tensor([5]), torch.zeros(8, 1), window=2)
    assert members[inside].tolist() == [5, 3, 4, 6]


@pytest.mark.parametrize("settings", [{"window": 0}, {"gap": 0}, {"radius": 0.0}])
def test_a_group_of_one_is_the_exact_rule(settings):
    p, q = rows(2, 40)
    codebook = torch.randn(40, 3)
    law = induced(p, q, partial(acceptance, codebook=codebook, **settings), residual)
    torch.testing.assert_close(law, p, atol=1e-12, rtol=0)
    assert bound(p, q, codebook, **settings) == pytest.approx(0, abs=1e-12)
    three, two, drafted = rows(3, 40, 3), rows(2, 40, 4), torch.tensor([1, 7])
    for seed in range(20):
        ours = accept(three, two, drafted, torch.Generator().manual_seed(seed), codebook=codebook, **settings)
        assert ours == speculative.accept(three, two, drafted, torch.Generator().manual_seed(seed))


def test_the_group_comes_from_the_target_and_serves_both():
    p, q, codebook = rows(1, 20, 1)[0], rows(1, 20, 2)[0], torch.zeros(20, 1)
    mirrored = group(q, torch.tensor([4]), codebook, window=3, gap=1)
    members, inside = group(p, torch.tensor([4]), codebook, window=3, gap=1)
    assert members[inside].tolist() != mirrored[0][mirrored[1]].tolist()
    chosen = members[inside]
    expected = float(p[chosen].sum() / q[chosen].sum())
    assert acceptance(p, q, 4, codebook, window=3, gap=1) == pytest.approx(min(1, expected))


def test_larger_groups_keep_more_and_are_not_exact():
    p, q = rows(2, 400, 3)
    codebook, rates = torch.zeros(400, 1), []
    for window in (0, 1, 3, 10, 40):
        a = acceptances(p, q, torch.arange(400), codebook, window=window, gap=1)
        rates.append(float((q * a).sum()))
    assert rates[0] == pytest.approx(float(overlap(p, q)))
    assert rates == sorted(rates)
    assert rates[-1] > rates[0] + 0.1
    law = induced(p, q, partial(acceptance, codebook=codebook, window=10, gap=1), residual)
    assert float((law - p).abs().sum()) / 2 > 0.02


def test_a_code_may_be_kept_less_often_than_by_the_exact_rule():
    assert speculative.acceptance(P, Q, 2) == 1
    assert acceptance(P, Q, 2, FLAT, window=1) < 0.75


@pytest.mark.parametrize("seed", range(20))
def test_what_comes_out_keeps_the_bound(seed):
    p, q = rows(2, 12, seed, sharp=3.0)
    codebook, settings = torch.zeros(12, 1), {"window": 3, "gap": 1.0}
    law = induced(p, q, partial(acceptance, codebook=codebook, **settings), residual)
    assert float((law - p).abs().sum()) / 2 <= bound(p, q, codebook, **settings) + 1e-12


def test_fixed_clusters_are_those_of_a_plain_loop():
    p, q, clusters = *rows(2, 9), torch.tensor([0, 0, 2, 2, 2, 1, 3, 3, 0])
    found = by_cluster(torch.stack([p, q]), torch.stack([q, p]), clusters)
    for row, (a, b) in enumerate(((p, q), (q, p))):
        for x in range(9):
            same = [y for y in range(9) if clusters[y] == clusters[x]]
            assert found[row, x].item() == pytest.approx(min(1, float(a[same].sum() / b[same].sum())))
    torch.testing.assert_close(by_cluster(p, q, torch.arange(9)), (p / q).clamp(max=1), atol=1e-12, rtol=0)
    assert by_cluster(p, torch.eye(9)[0].double(), clusters)[5] == 1
    assert (by_cluster(p, q, torch.zeros(9, dtype=torch.long)) > 1 - 1e-12).all()


@pytest.mark.slow
@pytest.mark.usefixtures("unchecked")
def test_the_law_in_counts():
    p, q, n = *rows(2, 6, 8), 1_500
    codebook, generator = torch.zeros(6, 1), torch.Generator().manual_seed(0)
    rule = {"codebook": codebook, "window": 2, "gap": 1.0}
    out = []
    for x in torch.multinomial(q, n, replacement=True, generator=generator):
        right, after = accept(p.expand(2, 6), q[None], x[None], generator, **rule)
        out.append(int(x) if right else after)
    counts, expected = torch.tensor(out).bincount(minlength=6), n * induced(p, q, partial(acceptance, **rule), residual)
    # A chi-square of 5 degrees of freedom is above 36 once in a million.
    assert float(((counts - expected) ** 2 / expected).sum()) < 36
    assert (expected / n - p).abs().max() > 0.01


def model(seed, v=7):
    table = rows(v + 1, v, seed, sharp=2.0)
    return lambda tokens, m: table[torch.cat([torch.tensor([v]), tokens])[len(tokens) + 1 - m :]]


def test_jacobi_drafts_from_what_the_target_last_said():
    jacobi = Jacobi(model(1), 7)
    first, q = jacobi.draft(torch.tensor([2]), 3, torch.Generator().manual_seed(0))
    torch.testing.assert_close(q, torch.full((3, 7), 1 / 7, dtype=torch.float64))
    said = jacobi.target(torch.cat([torch.tensor([2]), first]), 4)
    _, q = jacobi.draft(torch.tensor([2, 5, 5]), 4, torch.Generator().manual_seed(0))
    torch.testing.assert_close(q[:2], said[2:])
    torch.testing.assert_close(q[2:], torch.full((2, 7), 1 / 7, dtype=torch.float64))
    assert jacobi.draft(torch.tensor([2] * 9), 2, None)[1].unique().numel() == 1
    assert jacobi.draft(torch.tensor([2]), 1, None)[1].shape == (1, 7)
    assert Jacobi(model(1), 1).draft(torch.tensor([0]), 2, None)[0].tolist() == [0, 0]
    assert jacobi.draft(torch.zeros(0, dtype=torch.long), 2, None)[1].unique().numel() == 1


def test_drafts_are_made_where_the_context_is():
    jacobi = Jacobi(model(1), 7)
    with torch.device("meta"):
        tokens, q = jacobi.draft(torch.tensor([2], device="cpu"), 3, torch.Generator("cpu").manual_seed(0))
    assert tokens.device == q.device == torch.device("cpu")


def test_a_draft_hangs_on_its_generator_alone():
    def drafted(seed):
        jacobi = Jacobi(model(1), 7)
        jacobi.target(torch.tensor([2, 3, 4]), 3)
        return jacobi.draft(torch.tensor([2, 3]), 9, torch.Generator().manual_seed(seed))[0].tolist()

    first = drafted(0)
    torch.manual_seed(5)
    assert drafted(0) == first != drafted(1)


def test_codes_are_drawn_each_from_its_own_row():
    jacobi = Jacobi(lambda tokens, m: torch.eye(5, dtype=torch.float64)[[3, 0, 4]], 5)
    jacobi.target(torch.tensor([1, 1, 1]), 3)
    tokens, q = jacobi.draft(torch.tensor([1]), 3, None)
    assert tokens.tolist() == [3, 0, 4]
    assert torch.equal(q, torch.eye(5, dtype=torch.float64)[[3, 0, 4]])


def test_an_answer_that_holds_no_probabilities_is_refused():
    jacobi = Jacobi(lambda tokens, m: torch.full((m, 5), math.nan), 5)
    with pytest.raises(ValueError, match="the target's answer holds rows that are no probabilities"):
        jacobi.target(torch.tensor([1]), 1)


@pytest.mark.usefixtures("unchecked")
def test_grouped_decoding_takes_fewer_calls():
    calls = {}
    for window in (0, 12):
        judge = partial(accept, codebook=torch.zeros(60, 1), window=window, gap=1)
        generator = torch.Generator().manual_seed(0)
        made = decode(
            model(1, 60), drafter(model(2, 60)), judge, torch.tensor([3]), 200, k=4, generator=generator
        )  # fmt: skip
        calls[window] = made.calls
    assert calls[12] < 0.85 * calls[0]


@pytest.mark.parametrize("v", [1, 2, 33])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_sizes_and_types(v, dtype):
    p, q = rows(2, v).to(dtype)
    codebook = torch.zeros(v, 2, dtype=dtype)
    assert 0 <= acceptance(p, q, 0, codebook) <= 1
    assert acceptances(p, q, torch.zeros(0, dtype=torch.long), codebook).shape == (0,)
    assert accept(p[None], q[:0].view(0, v), torch.zeros(0, dtype=torch.long), codebook=codebook)[0] == 0


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: acceptance(P, Q, 0, FLAT, window=-1), "window=-1, gap=0.15 and radius=0.5 came"),
        (lambda: acceptance(P, Q, 0, FLAT, window=HALF), "window=1.5, .* window whole"),
        (lambda: acceptance(P, Q, 0, FLAT, gap=-0.1), "gap=-0.1"),
        (lambda: bound(P, Q, FLAT, radius=-2), "radius=-2"),
        (lambda: acceptance(P, Q, 0, FLAT[:3]), r"codebook of shape \(3, 1\) came, expected \(4, d\)"),
        (lambda: acceptance(P, Q, 0, FLAT[:, 0]), r"codebook of shape \(4,\) came"),
        (lambda: acceptance(P, Q, 0, FLAT * math.nan), "codebook of .* finite"),
        (lambda: acceptance(P, torch.eye(4)[1].double(), 0, FLAT), "x holds a token to which q gives no"),
        (lambda: by_cluster(P, Q, torch.zeros(3, dtype=torch.long)), r"clusters of shape \(3,\) came"),
        (lambda: by_cluster(P, Q, torch.zeros(4)), "clusters of .* whole number"),
        (lambda: by_cluster(P, Q, torch.tensor([0, 1, -1, 0])), "clusters of .* from 0"),
        (lambda: Jacobi(model(1), 0), "v=0 came"),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
