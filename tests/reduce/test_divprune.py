import itertools

import pytest
import torch

from minitok.reduce._common import highest
from minitok.reduce.divprune import distances, divprune, max_min, most_apart

FIVE = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [0.6, 0.8], [-1.0, 0.1], [0.9, 0.1]]])


def on_a_line(*points: float) -> torch.Tensor:
    at = torch.tensor(points, dtype=torch.float32)
    return (at[:, None] - at).abs()[None]


def walk(distance: list[list[float]], k: int) -> list[int]:
    """Algorithm 1 as a plain loop over lists."""
    n = len(distance)
    nearest = [min((distance[i][j] for i in range(n) if i != j), default=0.0) for j in range(n)]
    chosen = [nearest.index(max(nearest))]
    while len(chosen) < k:
        left = [j for j in range(n) if j not in chosen]
        chosen.append(max(left, key=lambda j: (min(distance[i][j] for i in chosen), -j)))
    return chosen


def spread_of(distance: torch.Tensor, chosen) -> float:
    return min(float(distance[i, j]) for i, j in itertools.combinations(chosen, 2))


DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def triton_twin():
    return pytest.importorskip("minitok.reduce.divprune_triton", reason="Triton is not installed here")


@pytest.fixture(params=["reference", "triton"])
def choose(request):
    function = max_min if request.param == "reference" else triton_twin().max_min
    return lambda distance, k: function(distance.to(DEVICE), k).cpu()


def test_five_directions_by_hand():
    distance = distances(FIVE)[0]
    assert distance[0, 1].item() == 1
    assert distance[0, 2].item() == pytest.approx(0.4)
    assert distance[1, 2].item() == pytest.approx(0.2)
    # The nearest others are at 0.006 (0 and 4), 0.2 (1 and 2) and 0.9 (3 from 1): 3 is alone, then 0 is opposite to it.
    assert max_min(distance[None], 4).tolist() == [[3, 0, 1, 2]]
    reduction = divprune(FIVE, 3)
    assert reduction.order.tolist() == [[0, 1, 3]]
    assert torch.equal(reduction.apply(FIVE), FIVE[:, [0, 1, 3]])


def test_points_on_a_line_by_hand(choose):
    # Nearest others at 1, 1, 4, 4: the third comes first, then the far end 0, then 9.
    assert choose(on_a_line(0, 1, 5, 9), 4).tolist() == [[2, 0, 3, 1]]
    assert choose(on_a_line(7), 1).tolist() == [[0]]
    assert most_apart(on_a_line(0, 1, 5, 9), 2).tolist() == [2]


@pytest.mark.parametrize(("b", "n", "k"), [(1, 1, 1), (2, 2, 2), (3, 7, 4), (1, 16, 16), (2, 33, 9), (1, 65, 12)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_picks_are_those_of_a_plain_loop(choose, b, n, k, dtype):
    distance = distances(torch.randn(b, n, 5)).to(dtype)
    picks = choose(distance, k)
    assert picks.dtype == torch.int64
    assert picks.tolist() == [walk(row, k) for row in distance.tolist()]


@pytest.mark.parametrize("k", [1, 2, 5, 12])
def test_of_equally_far_ones_the_lowest_is_taken(choose, k):
    distance = torch.randint(1, 4, (4, 12, 12)).float()
    distance = torch.maximum(distance, distance.mT) * (1 - torch.eye(12))
    assert choose(distance, k).tolist() == [walk(row, k) for row in distance.tolist()]


def test_copies_come_last_and_none_is_taken_twice(choose):
    # 0, 2, 4, 5 are copies of one token: whoever keeps 5 of 6 keeps three of the copies, the lowest of them.
    distance = on_a_line(3, 8, 3, 1, 3, 3)
    assert choose(distance, 5).tolist() == [[1, 3, 0, 2, 4]]
    assert sorted(choose(distance, 6)[0].tolist()) == list(range(6))


@pytest.mark.parametrize("k", [2, 3, 5])
def test_the_smallest_distance_is_at_least_half_of_the_best(k):
    for _ in range(20):
        points = torch.randn(9, 2)
        distance = torch.cdist(points, points, compute_mode="donot_use_mm_for_euclid_dist")
        best = max(spread_of(distance, chosen) for chosen in itertools.combinations(range(9), k))
        assert best / 2 <= spread_of(distance, max_min(distance[None], k)[0].tolist()) <= best


@pytest.mark.parametrize("k", [2, 4])
def test_by_cosine_the_chord_is_at_least_half_of_the_best(k):
    """The chord is a metric and puts pairs in the order of the cosine distance, so the walk is the same."""
    for _ in range(20):
        x = torch.randn(9, 3)
        unit = x / x.square().sum(-1, keepdim=True).sqrt()
        chord = torch.cdist(unit, unit, compute_mode="donot_use_mm_for_euclid_dist")
        picks = max_min(distances(x[None]), k)[0].tolist()
        assert picks == max_min(chord[None], k)[0].tolist()
        best = max(spread_of(chord, chosen) for chosen in itertools.combinations(range(9), k))
        assert spread_of(chord, picks) >= best / 2


def test_a_longer_walk_begins_with_the_shorter_one():
    distance = distances(torch.randn(2, 40, 6))
    assert torch.equal(max_min(distance, 30)[:, :11], max_min(distance, 11))


def test_only_directions_count():
    x = torch.randn(2, 30, 6)
    scaled = x * torch.exp(torch.randn(2, 30, 1))
    torch.testing.assert_close(distances(scaled), distances(x), atol=1e-6, rtol=0)
    lengths = x.square().sum(-1).sqrt()
    expected = 1 - (x[:, :, None] * x[:, None]).sum(-1) / (lengths[:, :, None] * lengths[:, None])
    torch.testing.assert_close(distances(x), expected, atol=1e-6, rtol=0)
    assert distances(x.double()).dtype == torch.float64
    assert distances(x.half()).dtype == torch.float32


def test_each_pick_is_the_furthest_from_the_ones_before():
    distance = distances(torch.randn(1, 25, 4))[0]
    picks = max_min(distance[None], 10)[0].tolist()
    for step in range(1, 10):
        reach = distance[picks[:step]].amin(0)
        left = [j for j in range(25) if j not in picks[:step]]
        assert reach[picks[step]] == reach[left].max()


def test_one_of_each_kind_is_kept_where_a_score_would_keep_one_kind():
    x = torch.eye(3).repeat_interleave(8, 0)[None] + torch.randn(1, 24, 3) * 0.02
    assert (divprune(x, 3).order // 8).tolist() == [[0, 1, 2]]
    assert (highest(x[..., 0], 3) // 8).tolist() == [[0, 0, 0]]


def test_a_token_of_zeros_is_far_from_all_others():
    x = torch.tensor([[[1.0, 0.0], [0.0, 0.0], [1.0, 0.1], [0.0, 0.0]]])
    off = ~torch.eye(4, dtype=torch.bool)
    assert (distances(x)[0, 1][off[1]] == 1).all()
    assert distances(x).isfinite().all()
    assert divprune(x, 3).order.tolist() == [[0, 1, 3]]
    assert divprune(torch.zeros(1, 4, 2), 2).order.tolist() == [[0, 1]]


def test_no_rows_give_no_picks(choose):
    assert choose(torch.zeros(0, 5, 5), 3).shape == (0, 3)


@pytest.mark.parametrize(
    ("distance", "k", "message"),
    [
        (torch.zeros(4, 4), 2, r"distance of shape \(4, 4\) came"),
        (torch.zeros(1, 4, 5), 2, r"distance of shape \(1, 4, 5\) came, expected \(b, n, n\)"),
        (torch.zeros(1, 4, 4, dtype=torch.long), 2, "distance of type torch.int64 came"),
        (torch.full((1, 4, 4), torch.nan), 2, "distance holds NaN or infinity"),
        (torch.full((1, 4, 4), torch.inf), 2, "distance holds NaN or infinity"),
        (torch.zeros(1, 4, 4), 0, "k=0 came, expected a whole number from 1 to"),
        (torch.zeros(1, 4, 4), 5, "k=5 came, expected a whole number from 1 to"),
        (torch.zeros(1, 4, 4), 2.0, "k=2.0 came"),
        (torch.zeros(1, 0, 0), 1, "k=1 came"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_bad_distances_are_refused(choose, distance, k, message):
    with pytest.raises(ValueError, match=message):
        choose(distance, k)


@pytest.mark.usefixtures("unchecked")
def test_what_the_kernel_cannot_take_is_refused(monkeypatch):
    twin = triton_twin().max_min
    with pytest.raises(ValueError, match="n=16385 tokens, expected at most 16384"):
        twin(torch.zeros(1, 1, 1).expand(1, 16385, 16385), 1)
    with pytest.raises(ValueError, match="float64"):
        twin(torch.zeros(1, 4, 4, dtype=torch.float64), 2)
    monkeypatch.setattr("minitok.reduce._launch.interpreted", lambda: False)
    with pytest.raises(ValueError, match="distance is on cpu: this function runs on a GPU"):
        twin(torch.zeros(1, 4, 4), 2)


@pytest.mark.parametrize(("b", "n", "k"), [(1, 1, 1), (2, 2, 1), (2, 33, 9), (1, 16, 16)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_fast_path_from_tokens_keeps_the_same(b, n, k, dtype):
    x = torch.randn(b, n, 5).to(dtype)
    found = triton_twin().divprune(x.to(DEVICE), k)
    assert torch.equal(found.order.cpu(), divprune(x, k).order)
    assert torch.equal(found.apply(x.to(DEVICE)).cpu(), divprune(x, k).apply(x))


def test_the_fast_path_from_tokens_meets_copies_zeros_and_no_rows():
    fast = triton_twin().divprune
    x = torch.tensor([[[1.0, 0.0], [0.0, 0.0], [1.0, 0.1], [0.0, 0.0], [1.0, 0.0]]])
    assert [fast(x.to(DEVICE), k).order.tolist() for k in (1, 3, 5)] == [
        divprune(x, k).order.tolist() for k in (1, 3, 5)
    ]
    assert fast(torch.ones(1, 6, 2, device=DEVICE), 4).order.tolist() == [[0, 1, 2, 3]]
    assert fast(torch.zeros(0, 6, 2, device=DEVICE), 4).order.shape == (0, 4)


@pytest.mark.parametrize(
    ("x", "k", "message"),
    [
        (torch.zeros(4, 3), 2, r"x of shape \(4, 3\) came, expected \(b, n, c\)"),
        (torch.zeros(1, 4, 3, dtype=torch.int32), 2, "x of type torch.int32 came, expected floating point"),
        (torch.full((1, 4, 3), torch.nan), 2, "x holds NaN or infinity"),
        (torch.zeros(1, 4, 3), 0, "k=0 came, expected a whole number from 1 to the 4 tokens"),
        (torch.zeros(1, 4, 3), 5, "k=5 came, expected a whole number from 1 to the 4 tokens"),
        (torch.zeros(1, 4, 3), True, "k=True came"),
    ],
)
@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("path", ["reference", "triton"])
def test_bad_tokens_are_refused(x, k, message, path):
    function = divprune if path == "reference" else triton_twin().divprune
    with pytest.raises(ValueError, match=message):
        function(x.to(DEVICE), k)
