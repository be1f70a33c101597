import pytest
import torch
from sklearn.neighbors import LocalOutlierFactor

from minitok.reduce._outliers import lof, outliers


def naive_lof(scores: list[float], neighbours: int) -> list[float]:
    """The definitions, one score after another; scores must differ."""
    n = len(scores)
    near = [sorted((j for j in range(n) if j != i), key=lambda j: abs(scores[i] - scores[j])) for i in range(n)]
    near = [row[:neighbours] for row in near]
    last = [abs(scores[i] - scores[row[-1]]) for i, row in enumerate(near)]
    reach = [sum(max(last[j], abs(scores[i] - scores[j])) for j in row) / len(row) for i, row in enumerate(near)]
    return [sum(reach[i] / reach[j] for j in row) / len(row) for i, row in enumerate(near)]


def test_five_scores_by_hand():
    # The furthest of two neighbours is 2, 1, 1, 2 and 7 away; mean reaches are 1.5 four times, and (6 + 7) / 2.
    found = lof(torch.tensor([[0.0, 1.0, 2.0, 3.0, 9.0]]), 2)
    torch.testing.assert_close(found, torch.tensor([[1, 1, 1, 1, 6.5 / 1.5]]))
    assert outliers(torch.tensor([[0.0, 1.0, 2.0, 3.0, 9.0], [0.0, 1.0, 2.0, 3.0, 4.0]]), 2).tolist() == [1, 0]


def test_low_scores_are_outliers_as_high_ones_are():
    scores = torch.tensor([[-9.0, 0.0, 1.0, 2.0, 3.0, 12.0]])
    assert outliers(scores, 2).tolist() == outliers(-scores, 2).tolist() == [2]


@pytest.mark.parametrize(("n", "neighbours"), [(200, 20), (50, 10), (21, 20), (6, 20), (4, 2), (2, 10)])
def test_factors_are_those_of_the_definitions_and_of_scikit_learn(n, neighbours):
    scores = torch.randn(3, n, dtype=torch.double).exp()
    found = lof(scores, neighbours)
    for row, factors in zip(scores, found, strict=True):
        expected = naive_lof(row.tolist(), min(neighbours, n - 1))
        torch.testing.assert_close(factors, torch.tensor(expected, dtype=torch.double), atol=1e-6, rtol=1e-6)
        theirs = LocalOutlierFactor(n_neighbors=min(neighbours, n - 1)).fit(row[:, None].numpy())
        torch.testing.assert_close(factors, -torch.tensor(theirs.negative_outlier_factor_), atol=1e-6, rtol=1e-6)
    assert outliers(scores, neighbours).tolist() == (found > 1.5).sum(1).tolist()


def test_equal_scores_are_a_crowd_and_one_alone_is_no_outlier():
    assert lof(torch.full((2, 30), 0.25), 10).tolist() == 2 * [30 * [1.0]]
    assert lof(torch.tensor([[3.0]]), 10).tolist() == [[1.0]]
    # Next to a crowd at one point everything is far.
    assert outliers(torch.tensor([[0.0] * 12 + [1e-3]]), 10).tolist() == [1]


def test_only_those_among_which_one_looks_count():
    scores, among = torch.randn(4, 40).exp(), torch.rand(4, 40) < 0.7
    found = lof(scores, 10, among)
    for row, there, factors in zip(scores, among, found, strict=True):
        torch.testing.assert_close(factors[there], lof(row[there][None], 10)[0])
        assert (factors[~there] == 1).all()
    assert lof(scores, 10, torch.zeros_like(among)).tolist() == torch.ones(4, 40).tolist()


def test_equally_near_scores_are_told_apart_by_value_not_by_place():
    # Of 0 and 2 the neighbour of 1 is 0, wherever they stand.
    scores, permutation = torch.tensor([[1.0, 0.0, 2.0, 2.25, 5.0, 2.5]]), torch.tensor([2, 5, 0, 4, 1, 3])
    assert torch.equal(lof(scores, 1)[:, permutation], lof(scores[:, permutation], 1))
    # The nearest of 0 is 1 away, of 2 it is 0.25 away: 1 is as dense as 0, and would be an outlier beside 2.
    assert lof(scores, 1)[0, 0].item() == pytest.approx(1)
