import math

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from minitok.reduce.globalcom2 import globalcom2, guided, retention


def heads(*paid: float) -> torch.Tensor:
    """Attention of one row in one head."""
    return torch.tensor(paid, dtype=torch.double)[None, None]


def cell(i: int, side: int, crops: tuple[int, int]) -> int:
    """The crop in which the middle of token i of a square thumbnail lies."""
    row, column = divmod(i, side)
    return int((row + 0.5) / side * crops[0]) * crops[1] + int((column + 0.5) / side * crops[1])


def stretched(line, size):
    """One line of values at so many places, bilinear, with half pixels beyond the ends repeated."""
    places = (np.arange(size) + 0.5) * len(line) / size - 0.5
    return np.interp(places, np.arange(len(line)), line)


def plain(paid, k, crops, tau):
    """The recipe for one row in plain Python: kept tokens."""
    (rows, columns), n = crops, len(paid)
    p = rows * columns
    m = n // (p + 1)
    side, share = round(m**0.5), k / n
    sums = [sum(paid[i] for i in range(m) if cell(i, side, crops) == j) for j in range(p)]
    weights = [math.exp((s - max(sums)) / tau) for s in sums]
    weights = [w / sum(weights) for w in weights]
    each = [share, *(min(share * (1 + w - 1 / p), 1) for w in weights)]
    budgets = [0] * (p + 1)
    for _ in range(k):
        free = [j for j in range(p + 1) if budgets[j] < m]
        budgets[max(free, key=lambda j: (round(each[j] / (budgets[j] + 1), 14), -budgets[j], -j))] += 1
    grid = np.array(paid[:m]).reshape(side, side)
    wide = np.stack([stretched(line, columns * side) for line in grid])
    whole = np.stack([stretched(line, rows * side) for line in wide.T]).T
    kept = []
    for j, count in enumerate(budgets):
        own = np.array(paid[j * m : j * m + m])
        if j:
            y, x = divmod(j - 1, columns)
            part = whole[y * side : y * side + side, x * side : x * side + side].flatten()
            own = own / np.linalg.norm(own) + part / np.linalg.norm(part)
        kept += sorted(range(j * m, j * m + m), key=lambda i, j=j, own=own: (-round(own[i - j * m], 12), i))[:count]
    return sorted(kept)


PAID = heads(0.1, 0.4, 0.2, 0.3, 0.6, 0.0, 0.8, 0.0, 0.5, 0.5, 0.5, 0.5)  # a thumbnail and two crops of 2 x 2
X = torch.zeros(1, 12, 1, dtype=torch.double)


def test_twelve_tokens_by_hand():
    # Left 0.3, right 0.7; tau = 0.1: e^-4 and 1, so w = 0.018 and 0.982, r = 0.5 x 0.518 and 0.5 x 1.482.
    assert_close(
        retention(PAID[0, :, :4], 0.5, (1, 2), 0.1), torch.tensor([[0.2590, 0.7410]]).double(), atol=1e-4, rtol=0
    )
    # Columns of the thumbnail at four places: 0.1, 0.175, 0.325, 0.4 above and 0.2, 0.225, 0.275, 0.3 below.
    left = torch.tensor([0.1, 0.175, 0.2, 0.225]).double()
    scores = guided(PAID[0, :, :4], PAID[0, :, 4:].view(1, 2, 4), (1, 2))[0]
    assert_close(scores[0], torch.tensor([0.6, 0, 0.8, 0]).double() + left / left.norm(), atol=1e-6, rtol=0)
    right = torch.tensor([0.325, 0.4, 0.275, 0.3]).double()
    assert_close(scores[1], 0.5 + right / right.norm(), atol=1e-6, rtol=0)
    # 6 of 12: thumbnail 2, left 1.04, right 2.96; one is left over: 2/3, 1.04/2, 2.96/3, so to the right.
    made = globalcom2(X, 6, cls_attention=PAID, crops=(1, 2), tau=0.1)
    assert made.order.tolist() == [[1, 3, 6, 8, 9, 11]]


def test_the_paper_s_temperature_is_nearly_flat():
    share = retention(PAID[0, :, :4], 0.5, (1, 2))
    assert_close(share, torch.tensor([[0.495, 0.505]]).double(), atol=1e-5, rtol=0)


@pytest.mark.parametrize("tau", [0.01, 0.5, 10.0])
def test_shares_are_the_whole_share_on_average(tau):
    share = retention(torch.rand(5, 16), 0.3, (2, 2), tau)
    assert_close(share.mean(1), torch.full((5,), 0.3), atol=1e-6, rtol=0)
    assert (retention(torch.rand(5, 16), 0.9, (2, 2), 0.01) <= 1).all()
    assert retention(torch.tensor([[1.0, 0, 0, 0]]), 0.9, (2, 2), 0.001).tolist()[0][0] == 1


@pytest.mark.parametrize(("crops", "m"), [((2, 2), 9), ((1, 3), 16), ((3, 1), 4), ((2, 3), 4), ((1, 1), 16)])
@pytest.mark.parametrize("tau", [0.5, 10.0])
def test_it_is_the_recipe_in_plain_python(crops, m, tau):
    n = m * (1 + crops[0] * crops[1])
    paid = torch.rand(4, 2, n, generator=torch.Generator().manual_seed(n), dtype=torch.double)
    for k in (1, 5, n // 3, n // 2, n - 1, n):
        made = globalcom2(torch.zeros(4, n, 1, dtype=torch.double), k, cls_attention=paid, crops=crops, tau=tau)
        for row in range(4):
            assert made.order[row].tolist() == plain(paid.mean(1)[row].tolist(), k, crops, tau)


def test_thumbnail_and_crops_both_decide():
    paid, x = torch.rand(1, 2, 80), torch.zeros(1, 80, 1)
    made = globalcom2(x, 20, cls_attention=paid).order
    for part in (slice(0, 16), slice(16, 80)):
        other = paid.clone()
        other[:, :, part] = torch.rand(1, 2, other[:, :, part].shape[2])
        assert not torch.equal(globalcom2(x, 20, cls_attention=other).order[made >= 16], made[made >= 16])
    assert not torch.equal(globalcom2(x, 20, cls_attention=paid, tau=0.01).order, made)


def test_of_equals_the_lower_stay_in_each_picture():
    made = globalcom2(torch.zeros(1, 20, 1), 8, cls_attention=torch.full((1, 1, 20), 0.25))
    assert made.order.tolist() == [[0, 1, 4, 5, 8, 9, 12, 16]]


def test_a_thumbnail_without_crops_keeps_its_best():
    paid = torch.rand(2, 3, 16)
    made = globalcom2(torch.zeros(2, 16, 1), 5, cls_attention=paid, crops=(0, 0))
    assert torch.equal(made.order, paid.sum(1).topk(5).indices.sort(1).values)


@pytest.mark.parametrize(
    ("k", "given", "message"),
    [
        (0, {}, "k=0 came, expected a whole number from 1 to the 12 tokens"),
        (13, {}, "k=13 came"),
        (2, {"x": X[0]}, r"x of shape \(12, 1\) came"),
        (2, {"cls_attention": PAID[..., 1:]}, r"cls_attention of shape \(1, 1, 11\) came, expected \(1, any, 12\)"),
        (2, {"cls_attention": PAID[:, :0]}, "cls_attention of no heads came, expected at least one"),
        (2, {"cls_attention": PAID / 0}, "cls_attention holds NaN or infinity"),
        (2, {"crops": (2, 2)}, r"crops=\(2, 2\) came for 12 tokens"),
        (2, {"tau": 0.0}, "tau=0.0 came, expected above 0"),
        (2, {"tau": float("nan")}, "tau=nan came"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_bad_input_is_refused(k, given, message):
    arguments = {"x": X, "cls_attention": PAID, "crops": (1, 2)} | given
    with pytest.raises(ValueError, match=message):
        globalcom2(arguments.pop("x"), k, **arguments)
