import itertools

import pytest
import torch
from scipy.spatial.distance import cdist

from minitok.reduce.centerclip import assign, centerclip, distances, kkz, medoids, moved, shares


def naive(x: list[list[float]], k: int, rounds: int = 60) -> list[int]:
    """k-medoids of one row by plain loops."""
    d = cdist(x, x).tolist()
    chosen = [max(range(len(x)), key=lambda i: (sum(v * v for v in x[i]), -i))]
    while len(chosen) < k:
        left = [i for i in range(len(x)) if i not in chosen]
        chosen.append(max(left, key=lambda i: (min(d[i][c] for c in chosen), -i)))
    for _ in range(rounds):
        near = [min(range(k), key=lambda j, row=row: row[chosen[j]]) for row in d]
        home = [chosen.index(i) if i in chosen else near[i] for i in range(len(x))]
        new = []
        for j in range(k):
            members = [i for i in range(len(x)) if home[i] == j]
            new.append(min(members, key=lambda i, members=members: sum(d[i][m] for m in members)))
        if new == chosen:
            break
        chosen = new
    return sorted(chosen)


LINE = torch.tensor([[[0.0], [1.0], [3.0], [9.0], [10.0], [12.0]]])


def test_six_tokens_on_a_line_by_hand():
    # 12 has the largest norm, 0 is furthest from it.
    assert kkz(LINE, distances(LINE), 2).tolist() == [[5, 0]]
    # 0, 1, 3 go to 0, the others to 12; sums are 4, 3, 5 and 4, 3, 5.
    there = assign(distances(LINE), torch.tensor([[5, 0]]))
    assert there.tolist() == [[1, 1, 1, 0, 0, 0]]
    assert moved(distances(LINE), there, 2).tolist() == [[4, 1]]
    assert centerclip(LINE, 2).order.tolist() == [[1, 4]]
    assert centerclip(LINE, 2).apply(LINE).flatten().tolist() == [1.0, 10.0]
    assert centerclip(LINE, 2, rounds=0).order.tolist() == [[0, 5]]


def test_a_second_round_may_move_them_again():
    # From 17 and 2 on: 9 is nearer to 2; of 2, 3, 9 the middle one is 3 and of 11 to 17 it is 15. Then 9 goes to 15,
    # and of 2 and 3 alone the lower index counts.
    x = torch.tensor([[[2.0], [3.0], [9.0], [11.0], [15.0], [16.0], [17.0]]])
    found = [medoids(x, 2, rounds)[0].tolist() for rounds in (0, 1, 2, 60)]
    assert found == [[0, 6], [1, 4], [0, 4], [0, 4]]


def test_segments_are_clustered_apart():
    # Two frames of three tokens: each alone keeps its own, together the far ones win.
    x = torch.tensor([[[0.0], [0.1], [0.2], [9.0], [20.0], [31.0]]])
    whole = centerclip(x, 4, frames=2)
    apart = centerclip(x, 4, frames=2, segments=2)
    assert (apart.order < 3).sum() == 2
    assert (whole.order < 3).sum() == 1
    for rows, count in ((slice(0, 3), 2), (slice(3, 6), 2)):
        kept = [i for i in apart.order[0].tolist() if rows.start <= i < rows.stop]
        assert kept == [rows.start + i for i in naive(x[0, rows].tolist(), count)]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("n", "k"), [(1, 1), (7, 3), (20, 1), (20, 6), (20, 19), (20, 20)])
def test_medoids_are_those_of_plain_loops(n, k, seed):
    x = torch.randn(3, n, 4, generator=torch.Generator().manual_seed(seed))
    assert medoids(x, k).tolist() == [naive(row.tolist(), k) for row in x]
    assert medoids(x, k, 1).tolist() == [naive(row.tolist(), k, 1) for row in x]


def test_they_are_no_worse_than_where_they_began_and_near_the_best():
    x = torch.randn(6, 10, 3)
    distance = distances(x)
    for row, found, start in zip(distance, medoids(x, 3), kkz(x, distance, 3), strict=True):

        def cost(chosen, row=row):
            return float(row[:, list(chosen)].amin(1).sum())

        best = min(cost(some) for some in itertools.combinations(range(10), 3))
        assert best - 1e-5 <= cost(found.tolist()) <= min(cost(start.tolist()), 1.5 * best) + 1e-5


def test_copies_are_chosen_last():
    x = torch.tensor([[[2.0], [2.0], [0.0], [0.0], [0.0]]])
    assert centerclip(x, 2).order.tolist() == [[0, 2]]
    assert centerclip(x, 3).order.tolist() == [[0, 1, 2]]
    assert centerclip(torch.ones(2, 5, 3), 3).order.tolist() == [[0, 1, 2], [0, 1, 2]]


def test_far_tokens_lose_no_digits():
    # By squares and products in float32, 1000 and 1000.05 would be at one place.
    x = torch.tensor([[[1000.0, 0.0], [1000.05, 0.0], [1000.2, 0.0]]])
    torch.testing.assert_close(distances(x)[0, 0], torch.tensor([0.0, 0.05, 0.2]), atol=1e-3, rtol=0)


def test_tokens_and_frames_are_shared_out():
    assert shares(8, 3) == [3, 3, 2]
    assert shares(6, 6) == [1] * 6
    x = torch.randn(2, 30, 4)
    # Five frames in two segments: 18 and 12 tokens; seven tokens: four and three.
    order = centerclip(x, 7, frames=5, segments=2).order
    assert (order < 18).sum(1).tolist() == [4, 4]
    assert order[0, :4].tolist() == naive(x[0, :18].tolist(), 4)
    assert (order[0, 4:] - 18).tolist() == naive(x[0, 18:].tolist(), 3)


X = torch.randn(1, 12, 2)


@pytest.mark.parametrize(
    ("x", "k", "given", "message"),
    [
        (X[0], 2, {}, r"x of shape \(12, 2\) came"),
        (X, 0, {}, "k=0 came, expected a whole number from 1 to the 12 tokens"),
        (X, 13, {}, "k=13 came"),
        (X, 4, {"frames": 5}, "frames=5 came, expected a divisor of the 12 tokens of x"),
        (X, 4, {"frames": 0}, "frames=0"),
        (X, 4, {"frames": 3, "segments": 4}, "segments=4 came, expected at most 3 frames and k=4"),
        (X, 2, {"frames": 3, "segments": 3}, "segments=3 came, expected at most 3 frames and k=2"),
        (X, 4, {"segments": 0}, "segments=0"),
        (X, 11, {"frames": 3, "segments": 2}, "k=11 came, 5 for a segment of 4 tokens"),
        (X, 4, {"rounds": -1}, "rounds=-1"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_bad_input_is_refused(x, k, given, message):
    with pytest.raises(ValueError, match=message):
        centerclip(x, k, **given)


def test_distances_keep_their_digits_far_from_zero():
    x = torch.randn(1, 40, 8, generator=torch.Generator().manual_seed(0)) + 1000
    exact = torch.cdist(x.double(), x.double())
    assert float((distances(x).double() - exact).abs().max()) < 1e-2
