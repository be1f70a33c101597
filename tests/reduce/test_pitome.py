import math
from functools import partial

import numpy as np
import pytest
import torch

from minitok.nn import Shape, Transformer
from minitok.reduce._common import Reduction, spread
from minitok.reduce.pitome import by_ratio, energy, falling, merge_crowd, pitome, spectral_distance
from minitok.reduce.tome import tome


def at_angles(*degrees):
    """Unit vectors in the plane: their cosines are those of the differences of angles."""
    radians = torch.tensor(degrees).deg2rad()
    return torch.stack([radians.cos(), radians.sin()], -1)[None]


# A crowd at 0 degrees, a pair at 90, one alone at 200: the places of the crowd are 1, 3, 4, 6.
PLACES = (90.0, 0.0, 200.0, 2.0, 4.0, 93.0, 1.5)


def elu(x):
    return x if x >= 0 else math.exp(x) - 1


def by_loop(vectors, r, margin, protect):
    """One step, written out: the groups of places, and which tokens were protected."""
    n = len(vectors)
    unit = [[v / math.hypot(*vector) for v in vector] for vector in vectors]
    cosine = [[sum(a * b for a, b in zip(u, v, strict=True)) for v in unit] for u in unit]
    energies = [sum(elu(c - margin) for c in row) / n for row in cosine]
    rank = sorted(range(n), key=lambda i: (-energies[i], i))
    crowd, alone = (rank[: 2 * r], rank[2 * r :]) if protect else (rank, [])
    first, second = crowd[::2], crowd[1::2]
    best = {a: max(second, key=lambda b: (cosine[a][b], -second.index(b))) for a in first}
    merged = sorted(first, key=lambda a: (-cosine[a][best[a]], first.index(a)))[:r]
    groups = {i: [i] for i in [*second, *alone, *(a for a in first if a not in merged)]}
    for a in merged:
        groups[best[a]].append(a)
    return sorted(sorted(group) for group in groups.values())


def groups_of(assignment):
    labels = assignment.tolist()
    return sorted([i for i, label in enumerate(labels) if label == one] for one in set(labels))


def test_energies_by_hand():
    metric = torch.tensor([[[2.0, 0.0], [0.0, 1.0], [-3.0, 0.0], [5.0, 0.0]]])
    low, opposite = math.exp(-0.5) - 1, math.exp(-1.5) - 1
    crowd, side, back = 0.5 + low + opposite + 0.5, 0.5 + 3 * low, 0.5 + low + 2 * opposite
    expected = torch.tensor([[crowd, side, back, crowd]]) / 4
    torch.testing.assert_close(energy(metric, margin=0.5), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("margin", [-1.0, 0.0, 0.5, 0.9, 1.0])
def test_energies_are_those_of_a_plain_loop(margin):
    metric = torch.randn(2, 9, 3)
    for vectors, found in zip(metric.tolist(), energy(metric, margin).tolist(), strict=True):
        unit = [[v / math.hypot(*vector) for v in vector] for vector in vectors]
        for u, value in zip(unit, found, strict=True):
            cosines = [sum(a * b for a, b in zip(u, v, strict=True)) for v in unit]
            assert value == pytest.approx(sum(elu(c - margin) for c in cosines) / 9, abs=1e-6)


def test_a_crowd_has_more_energy_than_a_pair_and_a_pair_more_than_one_alone():
    found = energy(at_angles(*PLACES), margin=0.9)[0]
    crowd, pair, alone = found[[1, 3, 4, 6]], found[[0, 5]], found[2]
    assert crowd.min() > pair.max()
    assert pair.min() > alone


def test_one_step_by_hand():
    # By energy: of the crowd first 4, then 3, 6, 1; so A is 4 and 6, B is 3 and 1.
    metric = at_angles(*PLACES)
    assert energy(metric)[0].argsort(descending=True)[:4].tolist() == [4, 3, 6, 1]
    assert groups_of(merge_crowd(metric, r=1)[0]) == [[0], [1], [2], [3, 4], [5], [6]]
    # Of B, token 3 at 2 degrees is the nearest to both, at 4 and at 1.5 degrees.
    assert groups_of(merge_crowd(metric, r=2)[0]) == [[0], [1], [2], [3, 4, 6], [5]]
    # With r = 3 the pair comes too, one of it in A and one in B; the one alone is still protected.
    assert groups_of(merge_crowd(metric, r=3)[0]) == [[0, 5], [1], [2], [3, 4, 6]]
    assert merge_crowd(metric, r=3).tolist() == [[0, 1, 2, 3, 3, 0, 3]]


@pytest.mark.parametrize("protect", [True, False])
@pytest.mark.parametrize(("n", "r"), [(2, 1), (3, 1), (7, 1), (7, 3), (20, 4), (20, 10), (33, 16)])
def test_a_step_is_that_of_a_plain_loop(n, r, protect):
    metric = torch.randn(4, n, 3)
    for vectors, found in zip(metric.tolist(), merge_crowd(metric, r, 0.4, protect), strict=True):
        assert groups_of(found) == by_loop(vectors, r, 0.4, protect)


@pytest.mark.parametrize(("k", "counts"), [(16, [16]), (12, [12]), (5, [10, 5]), (1, [10, 5, 3, 2, 1])])
def test_the_whole_is_that_of_plain_steps(k, counts):
    x, keys, size = torch.randn(1, 20, 6), torch.randn(1, 2, 20, 3), torch.randint(1, 5, (1, 20)).float()
    groups, metric = [[i] for i in range(20)], keys.mean(1)[0].tolist()
    for count in counts:
        step = by_loop(metric, len(groups) - count, 0.3, protect=True)
        joined = [sorted(i for j in group for i in groups[j]) for group in step]
        groups = sorted(joined)
        means = [keys.mean(1)[0][group] * size[0, group, None] / size[0, group].sum() for group in groups]
        metric = [mean.sum(0).tolist() for mean in means]
    reduction = pitome(x, k, keys=keys, size=size, margin=0.3)
    expected = torch.stack([(x[0, g] * size[0, g, None]).sum(0) / size[0, g].sum() for g in groups])
    torch.testing.assert_close(reduction.apply(x)[0], expected, atol=1e-5, rtol=0)
    assert reduction.sizes(size)[0].tolist() == [float(size[0, g].sum()) for g in groups]
    assert reduction.order[0].tolist() == [g[0] for g in groups]


def test_stripes_survive_that_tome_paints_over():
    # Every fourth token is another colour; all of them stand at even places, where ToMe has them merge with the rest.
    kinds = (torch.arange(32) % 4 == 0).long()
    x = torch.eye(2)[kinds][None] + torch.randn(1, 32, 2) * 0.01
    mixed = [M.matrix()[0] @ kinds.float() for M in (pitome(x, 16), tome(x, 16))]
    assert sorted(mixed[0].round(decimals=4).tolist()) == [0.0] * 12 + [1.0] * 4
    assert (mixed[1] > 0).any()
    assert mixed[1].max() < 1


def test_places_do_not_matter():
    x, order = torch.randn(2, 15, 4), torch.randperm(15)
    for protect in (True, False):
        before, after = pitome(x, 9, protect=protect), pitome(x[:, order], 9, protect=protect)
        for first, second in zip(before.assignment, after.assignment, strict=True):
            moved = sorted(sorted(order[group].tolist()) for group in groups_of(second))
            assert groups_of(first) == moved


def test_of_equal_energies_the_lower_index_counts_as_higher():
    same = torch.ones(1, 6, 2)
    assert groups_of(merge_crowd(same, r=1)[0]) == [[0, 1], [2], [3], [4], [5]]
    assert groups_of(merge_crowd(same, r=2)[0]) == [[0, 1, 2], [3], [4], [5]]


def test_the_margin_changes_who_is_protected():
    metric = torch.randn(20, 12, 2)
    assert not torch.equal(merge_crowd(metric, r=2, margin=0.9), merge_crowd(metric, r=2, margin=-0.5))
    x = torch.randn(20, 12, 2)
    assert not torch.equal(pitome(x, 10, margin=0.9).assignment, pitome(x, 10, margin=-0.5).assignment)


@pytest.mark.parametrize(
    "method", [energy, lambda x, **k: merge_crowd(x, 8, **k), lambda x, **k: pitome(x, 16, **k).assignment]
)
def test_the_margin_is_one_half_unless_another_is_given(method):
    metric = torch.randn(4, 24, 3, generator=torch.Generator().manual_seed(0))
    assert torch.equal(method(metric), method(metric, margin=0.5))
    for other in (0.25, 0.85):
        assert not torch.equal(method(metric), method(metric, margin=other))


def test_keys_decide_before_tokens_and_sizes_weigh():
    x = torch.tensor([[[1.0], [3.0], [100.0], [200.0]]])
    keys = at_angles(0.0, 1.0, 100.0, 220.0)[:, None]
    assert pitome(x, 3, keys=keys).apply(x).flatten().tolist() == [2.0, 100.0, 200.0]
    weighed = pitome(x, 3, keys=keys, size=torch.tensor([[3.0, 1.0, 1.0, 1.0]]))
    assert weighed.apply(x).flatten().tolist() == [1.5, 100.0, 200.0]
    assert weighed.sizes(torch.tensor([[3.0, 1.0, 1.0, 1.0]])).tolist() == [[4.0, 1.0, 1.0]]


def test_protecting_changes_the_result():
    x = torch.randn(1, 30, 4)
    assert not torch.equal(pitome(x, 27).assignment, pitome(x, 27, protect=False).assignment)
    # Half of the tokens leave nobody to protect.
    assert torch.equal(pitome(x, 15).assignment, pitome(x, 15, protect=False).assignment)


@pytest.mark.parametrize("highest", [0.9, 0.5])
@pytest.mark.parametrize("protect", [True, False])
def test_the_margin_falls_with_depth(highest, protect):
    network, x = Transformer(Shape(width=8, layers=4, heads=2, pairing=None)).eval(), torch.randn(2, 13, 8)
    schedule = {0: 10, 3: 7}

    def expected(layer):
        margin = highest * (1 - {0: 0, 3: 3}.get(layer.index, 0) / 4)
        return spread(schedule, partial(pitome, margin=margin, protect=protect))(layer)

    with torch.no_grad():
        found = network(x, "full", on_layer=falling(schedule, 4, highest, protect))
        torch.testing.assert_close(found, network(x, "full", on_layer=expected), atol=1e-6, rtol=0)
        assert network(x, "full", on_layer=falling(schedule, 4, first=3)).shape == (2, 10, 8)
        default, authors = (network(x, "full", on_layer=falling(schedule, 4, *some)) for some in ((), (0.9, True)))
        assert torch.equal(default, authors)


def test_gradients_reach_the_tokens_but_do_not_come_from_the_energies():
    x, keys = torch.randn(2, 8, 3, requires_grad=True), torch.randn(2, 1, 8, 3, requires_grad=True)
    y = pitome(x, 5, keys=keys).apply(x)
    to_x, to_keys = torch.autograd.grad(y.square().sum(), [x, keys], allow_unused=True)
    assert (to_x.abs().sum(-1) > 0).all()
    assert to_keys is None


def test_doubles_are_not_rounded():
    x = torch.randn(1, 12, 3, dtype=torch.float64)
    y = pitome(x, 7).apply(x)
    assert y.dtype == torch.float64
    torch.testing.assert_close(y, pitome(x, 7).matrix() @ x, atol=1e-12, rtol=0)


def test_the_result_is_a_merge():
    reduction = pitome(torch.randn(3, 10, 4), 4)
    assert isinstance(reduction, Reduction)
    assert reduction.sizes(torch.ones(3, 10)).sum(-1).tolist() == [10.0] * 3


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: energy(torch.randn(4, 3)), r"metric of shape \(4, 3\) came"),
        (lambda: energy(torch.randn(1, 4, 3), margin=1.5), "margin=1.5 came, expected a cosine from -1 to 1"),
        (lambda: energy(torch.full((1, 4, 3), torch.nan)), "metric holds NaN"),
        (lambda: merge_crowd(torch.randn(1, 6, 2), r=4), "r=4 came"),
        (lambda: merge_crowd(torch.randn(1, 6, 2), r=0), "r=0 came"),
        (lambda: pitome(torch.randn(1, 6, 2), 7), "k=7 came"),
        (lambda: pitome(torch.randn(1, 6, 2), 3, margin=-2.0), "margin=-2.0 came"),
        (lambda: pitome(torch.randn(1, 6, 2), 3, keys=torch.randn(1, 6, 2)), "keys of shape"),
        (lambda: pitome(torch.randn(1, 6, 2), 3, size=torch.ones(1, 5)), "size of shape"),
        (lambda: pitome(torch.randn(1, 6, 2), 3, size=-torch.ones(1, 6)), "size from -1 came, expected above 0"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_bad_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_a_ratio_takes_away_the_floor_of_its_share():
    assert by_ratio(256, 0.9, 3) == {0: 231, 1: 208, 2: 188}  # 25.6, 23.1 and 20.8 go
    assert by_ratio(10, 1.0, 2) == {0: 10, 1: 10}
    assert by_ratio(9, 0.5, 2) == {0: 5, 1: 3}
    for ratio in (0.49, 1.01):
        with pytest.raises(ValueError, match=f"ratio={ratio} came, expected 0.5 to 1"):
            by_ratio(256, ratio, 3)


def test_the_spectrum_of_three_tokens_by_hand():
    # Two equal tokens and one at a right angle: edges 0 inside the pair and 1 to the third. Scaled by the roots of the
    # degrees 1, 1, 2 the graph has eigenvalues 0, 1, 2; merging the pair changes nothing, merging across does.
    metric = torch.tensor([[[1.0, 0.0], [3.0, 0.0], [0.0, 2.0]]])
    pair, across = (Reduction.merge(torch.tensor([groups]), 2) for groups in ([0, 0, 1], [0, 1, 1]))
    assert spectral_distance(metric, pair).item() == pytest.approx(0, abs=1e-12)
    # Across: W' = P W P has rows (0, 1/2, 1/2), (1/2, 1/2, 1/2), (1/2, 1/2, 1/2), degrees 1, 3/2, 3/2.
    lifted = np.array([[0, 0.5, 0.5], [0.5, 0.5, 0.5], [0.5, 0.5, 0.5]])
    scale = np.diag(1 / np.sqrt(lifted.sum(1)))
    changed = np.linalg.eigvalsh(np.eye(3) - scale @ lifted @ scale)
    expected = np.abs(changed - np.array([0, 1, 2])).sum()
    assert spectral_distance(metric, across).item() == pytest.approx(expected, abs=1e-9)
    assert expected > 0.1


def test_the_spectrum_is_that_of_numpy():
    metric = torch.randn(2, 12, 4)
    made = pitome(metric, 7)
    found = spectral_distance(metric, made)
    for row in range(2):
        unit = metric[row].double().numpy() / np.linalg.norm(metric[row].double().numpy(), axis=1, keepdims=True)
        edges = np.clip(1 - unit @ unit.T, 0, None)
        lift = np.equal.outer(*[made.assignment[row].numpy()] * 2).astype(float)
        lift /= lift.sum(1, keepdims=True)
        spectra = [np.sort(np.linalg.eigvalsh(laplacian(w))) for w in (edges, lift @ edges @ lift.T)]
        assert found[row].item() == pytest.approx(np.abs(spectra[0] - spectra[1]).sum(), abs=1e-6)


def laplacian(edges):
    """Normalised, with the edges of a token with itself counted in its degree."""
    scale = 1 / np.sqrt(edges.sum(1))
    return np.eye(len(edges)) - scale[:, None] * edges * scale
