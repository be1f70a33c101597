import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from minitok.nn import MLP
from minitok.reduce.corematching import activations, core, corematching, elbow, fired, overlap, sparse

# Four visual tokens and two words, five neurons.
VISUAL = torch.tensor([[
    [0.9, 0.1, -0.2, 0.3, -1.0],
    [-0.1, 0.2, 0.4, 0.8, 0.1],
    [0.5, -0.3, -0.1, 0.6, -0.2],
    [-0.4, -0.2, 0.7, -0.9, 0.3],
]])  # fmt: skip
WORDS = torch.tensor([[[0.2, -0.1, -0.3, 0.5, 0.1], [-0.6, 0.4, 0.2, -0.1, 0.3]]])
X = torch.arange(8.0).view(1, 4, 2)


def test_four_tokens_by_hand():
    # The last word fires 1, 2 and 4; the tokens 0, 1, 3; 1, 2, 3, 4; 0, 3; 2, 4.
    assert overlap(VISUAL, WORDS).tolist() == [[1, 3, 0, 2]]
    assert corematching(X, 2, neurons=VISUAL, word_neurons=WORDS).order.tolist() == [[1, 3]]
    # All six tokens fire the neurons 3, 3, 3, 4 and 4 times: 3 and 4 are the core at two of five.
    assert core(fired(torch.cat([VISUAL, WORDS], 1)), 0.4).int().tolist() == [[0, 0, 0, 1, 1]]
    assert overlap(VISUAL, WORDS, match="core").tolist() == [[1, 2, 1, 1]]
    kept = corematching(X, 3, neurons=VISUAL, word_neurons=WORDS, match="core")
    assert kept.apply(X).tolist() == [[[0, 1], [2, 3], [4, 5]]]
    # Without the first word they fire 2, 3, 3, 3 and 3 times, and of four equal ones the first two count.
    asked = torch.tensor([[False, True]])
    assert overlap(VISUAL, WORDS, asked, "core").tolist() == [[1, 2, 0, 1]]
    assert overlap(VISUAL, WORDS, asked).tolist() == overlap(VISUAL, WORDS).tolist()


def test_a_share_of_the_positive_neurons_fires():
    # Of three positive ones half are two, of four two, of two one.
    assert fired(VISUAL, 0.5).int().tolist() == [
        [[1, 0, 0, 1, 0], [0, 0, 1, 1, 0], [0, 0, 0, 1, 0], [0, 0, 1, 0, 0]],
    ]  # fmt: skip
    assert overlap(VISUAL, WORDS, rho=0.5).tolist() == [[0, 0, 0, 0]]
    assert overlap(VISUAL, WORDS, rho=0.6).tolist() == [[0, 1, 0, 1]]
    assert int(fired(torch.ones(1, 1, 30), 0.1).sum()) == 3
    assert not fired(torch.tensor([[[-1.0, 0.0, -2.0]]]), 0.5).any()
    assert not fired(torch.tensor([[[-1.0, 0.0, -2.0]]])).any()


@pytest.mark.parametrize("rho", [1.0, 0.7, 0.2])
@pytest.mark.parametrize("match", ["last", "core"])
def test_the_scores_are_those_of_sets(match, rho):
    neurons, words, asked = torch.randn(3, 9, 20), torch.randn(3, 5, 20), torch.rand(3, 5) < 0.7
    found = overlap(neurons, words, asked, match, rho, beta=0.3)
    for i in range(3):

        def of(h):
            positive = sorted((j for j in range(20) if h[j] > 0), key=lambda j: -float(h[j]))
            return set(positive[: math.ceil(rho * len(positive) - 1e-6)])

        visual, said = [of(h) for h in neurons[i]], [of(h) for h in words[i]]
        there = [g for g, is_word in zip(said, asked[i], strict=True) if is_word] + visual
        often = sorted(range(20), key=lambda j: (-sum(j in g for g in there), j))[:6]
        with_whom = said[-1] if match == "last" else set(often)
        assert found[i].tolist() == [len(g & with_whom) for g in visual]


@pytest.mark.parametrize(("beta", "count"), [(1.0, 20), (0.4, 8), (0.33, 7), (0.01, 1)])
def test_the_core_is_a_share_of_all_neurons(beta, count):
    there = torch.rand(3, 9, 20) < 0.5
    found = core(there, beta)
    assert found.sum(1).tolist() == 3 * [count]
    often = there.sum(1)
    for row, chosen in zip(often.tolist(), found.tolist(), strict=True):
        assert [j for j in range(20) if chosen[j]] == sorted(sorted(range(20), key=lambda j: (-row[j], j))[:count])
    assert not torch.equal(core(there, 0.5), core(there, 0.4))


def perpendicular(scores: list[float]) -> int:
    """How many lie above the elbow, by distances at a right angle to the line from the first to the last."""
    curve = sorted(scores, reverse=True)
    run, rise = len(curve) - 1, curve[-1] - curve[0]
    far = [abs(rise * i - run * (y - curve[0])) / math.hypot(run, rise) for i, y in enumerate(curve)]
    at = max(range(len(curve)), key=lambda i: (round(far[i], 4), -i))
    return max(sum(y > curve[at] for y in curve), 1)


def test_the_elbow_is_the_furthest_point_at_a_right_angle():
    assert elbow(torch.tensor([[9.0, 2.0, 8.0, 1.0, 0.0]])).tolist() == [2]
    scores = torch.randint(0, 40, (40, 30)).float() ** 2
    assert elbow(scores).tolist() == [perpendicular(row) for row in scores.tolist()]
    assert torch.equal(elbow(scores), elbow(scores[:, torch.randperm(30)]))
    assert torch.equal(elbow(scores), elbow(3 * scores + 5))
    # A curve that bends the other way has its elbow late, and none above it is lost.
    assert elbow(torch.tensor([[9.0, 8.0, 7.0, 6.0, 0.0]])).tolist() == [3]


def test_equal_scores_have_no_elbow_and_one_is_kept():
    assert elbow(torch.full((2, 7), 3.0)).tolist() == [1, 1]
    assert elbow(torch.tensor([[5.0]])).tolist() == [1]
    assert elbow(torch.tensor([[2.0, 1.0]])).tolist() == [1]
    # Ties at the elbow all go, since only what is above it stays.
    assert elbow(torch.tensor([[9.0, 1.0, 1.0, 1.0, 1.0, 0.0]])).tolist() == [1]


@pytest.mark.parametrize("k", [1, 4, 8, 9])
def test_the_choice_is_that_of_a_plain_sort(k):
    neurons, words = torch.randn(3, 9, 12), torch.randn(3, 4, 12)
    some: list[dict[str, Any]] = [{}, {"match": "core"}, {"rho": 0.3}, {"match": "core", "beta": 0.2}]
    for options in some:
        found = corematching(torch.zeros(3, 9, 1), k, neurons=neurons, word_neurons=words, **options).order.tolist()
        for row, kept in zip(overlap(neurons, words, **options).tolist(), found, strict=True):
            assert kept == sorted(sorted(range(9), key=lambda j: (-row[j], j))[:k])


def test_every_option_changes_the_choice():
    neurons, words, x = torch.randn(4, 30, 40), torch.randn(4, 6, 40), torch.zeros(4, 30, 1)
    asked = torch.tensor([[False, False, False, False, False, True]]).expand(4, -1)
    options: list[dict[str, Any]] = [{}, {"match": "core"}, {"rho": 0.3}, {"match": "core", "beta": 0.1}]
    options += [{"match": "core", "beta": 0.1, "asked": asked}]
    orders = [corematching(x, 8, neurons=neurons, word_neurons=words, **some).order for some in options]
    assert all(not torch.equal(a, b) for i, a in enumerate(orders) for b in orders[:i])


def test_the_neurons_are_what_goes_into_the_last_layer():
    mlp, x = MLP(6, 10), torch.randn(2, 3, 6)
    neurons = activations(mlp, x)
    assert neurons.shape == (2, 3, 10)
    torch.testing.assert_close(mlp.out(neurons), mlp(x))
    torch.testing.assert_close(neurons[0, 0, 4], F.silu(mlp.gate(x))[0, 0, 4] * mlp.up(x)[0, 0, 4])


def test_the_sparse_part_is_the_whole_one_with_other_neurons_at_zero():
    mlp, x = MLP(6, 10), torch.randn(3, 4, 6)
    some = core(torch.rand(3, 5, 10) < 0.5, 0.3)
    torch.testing.assert_close(sparse(mlp, x, some), mlp.out(activations(mlp, x) * some[:, None]))
    torch.testing.assert_close(sparse(mlp, x, torch.ones(3, 10, dtype=torch.bool)), mlp(x))
    assert not torch.allclose(sparse(mlp, x, some), mlp(x))
    assert sparse(mlp, x[:0], some[:0]).shape == (0, 4, 6)


GIVEN = {"neurons": VISUAL, "word_neurons": WORDS}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"k": 0}, "k=0 came, expected a whole number from 1 to the 4 tokens"),
        ({"k": 5}, "k=5 came"),
        ({"x": X[0]}, r"x of shape \(4, 2\) came"),
        ({"neurons": VISUAL[:, 1:]}, r"neurons of shape \(1, 3, 5\) came, expected \(1, 4, any\)"),
        ({"neurons": VISUAL / 0}, "neurons holds NaN or infinity"),
        ({"word_neurons": WORDS[..., 1:]}, r"word_neurons of shape \(1, 2, 4\) came, expected \(1, any, 5\)"),
        ({"word_neurons": WORDS[:, :0]}, r"word_neurons of shape \(1, 0, 5\) came, expected at least one"),
        ({"asked": torch.ones(1, 3, dtype=torch.bool)}, r"asked of shape \(1, 3\)"),
        ({"match": "all"}, r"match='all' came, expected one of \('last', 'core'\)"),
        ({"rho": 0.0}, "rho=0.0 came, expected above 0, at most 1"),
        ({"rho": 1.5}, "rho=1.5 came"),
        ({"beta": math.nan}, "beta=nan came, expected above 0, at most 1"),
        ({"beta": -0.1}, "beta=-0.1 came"),
        ({"beta": 1.1}, "beta=1.1 came"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_bad_input_is_refused(changed, message):
    with pytest.raises(ValueError, match=message):
        corematching(**({"x": X, "k": 2} | GIVEN | changed))


@pytest.mark.usefixtures("unchecked")
def test_cores_of_other_sizes_are_refused():
    some = torch.tensor([[True, False, True], [False, False, True]])
    with pytest.raises(ValueError, match=r"core with \[2, 1\] neurons came, expected as many in each row"):
        sparse(MLP(4, 3), torch.randn(2, 1, 4), some)
