import math

import pytest
import torch

from minitok.reduce import vflowopt
from minitok.reduce.vflowopt import cells_of, entropy, importance, least_dropped, search

# Eight patches on a grid of 2 x 4, in two cells of 2 x 2; the importance in sixteenths.
SCORES = torch.tensor([[5.0, 1.0, 2.0, 0.5, 3.0, 1.0, 2.0, 1.5]]) / 16
EIGHT = torch.tensor([8.0, 4.0, 2.0, 6.0, 1.0, 0.0, 5.0, 4.0]).view(1, 8, 1)


def test_eight_tokens_by_hand():
    # Cells are 0, 1, 4, 5 and 2, 3, 6, 7. Of k = 4 the two best, 0 and 4, stay; 1 and 5 give their mean, (4 + 0) / 2,
    # and 2, 3, 6, 7 theirs, (2 x 2 + 0.5 x 6 + 2 x 5 + 1.5 x 4) / 6 = 23 / 6, in the place of token 2.
    made = vflowopt(EIGHT, 4, scores=SCORES, grid=(2, 4), cell=2.0)
    assert made.order.tolist() == [[0, 1, 2, 4]]
    assert made.apply(EIGHT).flatten().tolist() == pytest.approx([8, 2, 23 / 6, 1])
    # At k = 2 each cell gives one token: (5 x 8 + 1 x 4 + 3 x 1 + 1 x 0) / 10.
    assert vflowopt(EIGHT, 2, scores=SCORES, grid=(2, 4), cell=2.0).apply(EIGHT)[0, 0].item() == pytest.approx(4.7)
    # A single token is left of two cells: the best, and nothing of the others.
    assert vflowopt(EIGHT, 1, scores=SCORES, grid=(2, 4), cell=2.0).apply(EIGHT).flatten().tolist() == [8]
    # A cell that is wholly kept has no group: 0 and 4 and then 1 and 5 stay, and one of the other cell.
    five = vflowopt(EIGHT, 5, scores=torch.tensor([[5.0, 4.0, 1, 1, 3.0, 2.0, 1, 1]]), grid=(2, 4), cell=2.0)
    assert five.order.tolist() == [[0, 1, 2, 4, 5]]
    assert five.apply(EIGHT)[0, 2].item() == pytest.approx(17 / 4)


@pytest.mark.parametrize("cell", [1.0, 1.5, 2.3, 4.0, 9.0])
@pytest.mark.parametrize("k", [1, 5, 11, 16, 29, 36])
def test_it_is_a_plain_loop(k, cell):
    scores, x = torch.rand(4, 36) + 0.01, torch.randn(4, 36, 3)
    found = vflowopt(x, k, scores=scores, cell=cell)
    cells = [int(i / cell) * 100 + int(j / cell) for i in range(6) for j in range(6)]
    for row, tokens, result in zip(scores.tolist(), x, found.apply(x), strict=True):
        order = sorted(range(36), key=lambda j: (-row[j], j))
        if len(set(cells)) > k:
            expected = {j: tokens[j] for j in order[:k]}
        else:
            q = next(q for q in range(37) if q + len({cells[j] for j in order[q:]}) == k)
            expected = {j: tokens[j] for j in order[:q]}
            for group in {cells[j] for j in order[q:]}:
                members = [j for j in order[q:] if cells[j] == group]
                total = sum(row[j] for j in members)
                expected[members[0]] = sum(row[j] / total * tokens[j] for j in members)
        torch.testing.assert_close(result, torch.stack([expected[j] for j in sorted(expected)]), atol=1e-5, rtol=1e-5)


def test_cells_are_counted_in_raster_order():
    assert cells_of(16, None, 2.0) == [0, 0, 1, 1, 0, 0, 1, 1, 2, 2, 3, 3, 2, 2, 3, 3]
    assert cells_of(8, (2, 4), 3.0) == [0, 0, 0, 1, 0, 0, 0, 1]
    assert cells_of(5, (1, 5), 2.5) == [0, 0, 0, 1, 1]


def test_an_importance_below_zero_weighs_next_to_nothing():
    x, scores = torch.tensor([[[1.0], [3.0], [7.0], [9.0]]]), torch.tensor([[1.0, -1.0, -2.0, 1.0]])
    made = vflowopt(x, 1, scores=scores, cell=2.0)
    assert made.apply(x).item() == pytest.approx(5.0, abs=1e-4)
    assert vflowopt(x, 1, scores=-scores.abs(), cell=2.0).apply(x).item() == pytest.approx(5.0)
    zero = vflowopt(x, 1, scores=torch.zeros(1, 4), cell=2.0)
    assert zero.apply(x).item() == pytest.approx(5.0)


def test_inside_only_the_most_important_stay():
    x = torch.randn(2, 9, 3)
    scores = torch.rand(2, 9)
    expected = [sorted(sorted(range(9), key=lambda j: -row[j])[:4]) for row in scores.tolist()]
    assert least_dropped(x, 4, scores=scores).order.tolist() == expected


def test_entropy_counts_grey_values():
    images = torch.zeros(1, 3, 4, 8)
    images[..., :4] = torch.arange(16.0).view(4, 4) / 255 + 1e-4  # sixteen greys
    images[..., 2:, 4:] = 200 / 255 + 1e-4  # two greys alike
    assert entropy(images, 4)[0].tolist() == pytest.approx([4.0, 1.0])
    # By channels: (30 + 60 + 90) / 3 and 60, the same grey.
    images = torch.tensor([30.0, 60.0, 90.0])[:, None, None].expand(3, 1, 2).clone() / 255 + 1e-4
    images[:, :, 1] = 60 / 255 + 1e-4
    assert entropy(images[None].repeat(1, 1, 2, 1), 2).item() == 0
    photo = torch.rand(2, 3, 8, 16)
    found = entropy(photo, 8)
    grey = (photo * 255).floor().mean(1).round().long()
    for b in range(2):
        for j in range(2):
            _, counts = grey[b, :, 8 * j : 8 * j + 8].unique(return_counts=True)
            expected = -sum(c / 64 * math.log2(c / 64) for c in counts.tolist())
            assert float(found[b, j]) == pytest.approx(expected, abs=1e-4)


def test_importance_by_hand():
    attention = torch.tensor([[0.5, 0.25, 0.25], [0.75, 0.25, 0.0], [0.25, 0.25, 0.5]])[None, None]
    bits = torch.tensor([[0.0, 0.0, math.log(2)]])
    # All pay: 1.5, 0.75 and 0.75 over three. Received are the same; above the mean of 1/3 is token 0 alone.
    assert (4 * importance(attention, bits)).tolist() == [[2, 1, 1]]
    assert (4 * importance(attention, bits, t=1.0)).tolist() == [[2, 1, 1]]
    assert torch.equal(importance(attention, bits, t=1.0)[0], attention[0, 0, 0])
    # Nobody receives ten times the mean: token 0, which receives most, pays.
    assert torch.equal(importance(attention, bits, t=10.0)[0], attention[0, 0, 0])
    # softmax(0, 0, log 2) is 1/4, 1/4, 1/2.
    assert (4 * importance(attention, bits, alpha=1.0)).tolist() == [pytest.approx([3, 2, 3])]
    assert (4 * importance(attention, bits, alpha=-1.0)).tolist() == [pytest.approx([1, 0, -1])]


@pytest.mark.parametrize("t", [0.0, 0.8, 1.1])
def test_importance_is_a_plain_loop(t):
    attention, bits = torch.rand(2, 3, 6, 6).pow(3), torch.rand(2, 6)
    attention = attention / attention.sum(-1, keepdim=True)
    for row, found in zip(attention.mean(1), importance(attention, bits, t=t), strict=True):
        received = row.mean(0)
        payers = [i for i in range(6) if received[i] > t * received.mean()]
        torch.testing.assert_close(found, torch.stack([row[i] for i in payers]).mean(0))


def hill(point):
    return -((point[0] - 3) ** 2) - 4 * (point[1] + 0.5) ** 2


def test_the_search_finds_a_hill_sooner_than_lots():
    bounds = [(0.0, 10.0), (-1.0, 1.0)]
    ours = [max(value for _, value in search(hill, bounds, 25, 8, seed)) for seed in range(4)]
    lots = [max(value for _, value in search(hill, bounds, 25, 25, seed)) for seed in range(4)]
    assert min(ours) > -0.1
    assert sum(ours) > sum(lots) / 4


def test_the_search_says_all_that_it_tried():
    bounds, seen = [(2.0, 4.0)], []
    trace = search(lambda point: seen.append(point) or float(point[0]), bounds, 9, 5, seed=3)
    assert [point for point, _ in trace] == seen
    assert [value for _, value in trace] == [point[0] for point in seen]
    assert all(2 <= point[0] <= 4 for point in seen)
    assert trace[:5] == search(lambda point: float(point[0]), bounds, 5, 5, seed=3)
    assert trace[0] != search(lambda point: float(point[0]), bounds, 1, 1, seed=4)[0]
    assert len({point[0] for point in seen[5:]} | {4.0}) > 1
    assert seen[-1][0] > 3.9  # it climbs
    assert len(search(lambda point: 0.0, bounds, 30)) == 30


X = torch.randn(1, 4, 2)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: vflowopt(X, 5, scores=torch.ones(1, 4)), "k=5 came"),
        (lambda: vflowopt(X, 2, scores=torch.ones(1, 3)), r"scores of shape \(1, 3\) came, expected \(1, 4\)"),
        (
            lambda: vflowopt(X, 2, scores=torch.ones(1, 4), grid=(2, 3)),
            r"grid=\(2, 3\) came, expected rows and columns",
        ),
        (lambda: vflowopt(X, 2, scores=torch.ones(1, 4), grid=(0, 4)), r"grid=\(0, 4\) came"),
        (lambda: vflowopt(X[:, :3], 2, scores=torch.ones(1, 3)), "grid=None came, expected rows and columns of the 3"),
        (lambda: vflowopt(X, 2, scores=torch.ones(1, 4), cell=0.5), "cell=0.5 came, expected a number of at least 1"),
        (lambda: vflowopt(X, 2, scores=torch.ones(1, 4), cell=math.inf), "cell=inf came"),
        (lambda: least_dropped(X, 2, scores=torch.ones(2, 4)), r"scores of shape \(2, 4\) came"),
        (lambda: least_dropped(X, 0, scores=torch.ones(1, 4)), "k=0 came"),
        (lambda: entropy(torch.rand(1, 3, 8, 8), 3), "patch=3 came, expected one that tiles 8 x 8"),
        (lambda: entropy(torch.rand(1, 3, 8, 8), 0), "patch=0 came"),
        (lambda: importance(torch.ones(1, 2, 3, 4), torch.ones(1, 4)), r"attention of shape \(1, 2, 3, 4\) came"),
        (lambda: importance(torch.ones(1, 2, 4, 4), torch.ones(1, 3)), r"entropy of shape \(1, 3\) came"),
        (lambda: search(hill, [(0.0, 1.0), (2.0, 2.0)], 3), "expected each low below its high"),
        (lambda: search(hill, [(0.0, 1.0)], 0), "calls=0 came"),
        (lambda: search(hill, [(0.0, 1.0)], 3, 0), "initial=0 came"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_bad_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
