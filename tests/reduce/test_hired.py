import pytest
import torch

from minitok.reduce.hired import budgets, hired, marks


def heads(*paid: float) -> torch.Tensor:
    """Attention of one row in one head."""
    return torch.tensor(paid)[None, None]


def cell(i: int, side: int, crops: tuple[int, int]) -> int:
    """The crop in which the middle of token i of a square thumbnail lies."""
    row, column = divmod(i, side)
    return int((row + 0.5) / side * crops[0]) * crops[1] + int((column + 0.5) / side * crops[1])


def plain(first, last, k, crops, alpha):
    """The recipe for one row in plain Python: kept tokens."""
    p, n = crops[0] * crops[1], len(first)
    m = n // (p + 1)
    side = round(m**0.5)
    best = sorted(range(m), key=lambda i: (-first[i], i))[: int((1 - alpha) * m)]
    counts = [sum(cell(i, side, crops) == j for i in best) for j in range(p)]
    thumbnail = max(min(int(alpha * k), m), k - p * m)
    left, own = k - thumbnail, [0] * p
    for _ in range(left):
        free = [j for j in range(p) if own[j] < m]
        own[max(free, key=lambda j: (counts[j] / (own[j] + 1), -own[j], -j))] += 1
    kept = []
    for j, count in enumerate([thumbnail, *own]):
        kept += sorted(range(j * m, j * m + m), key=lambda i: (-last[i], i))[:count]
    return sorted(kept)


FIRST = heads(0.3, 0.5, 0.0, 0.2, *8 * [9.0])  # a thumbnail of 2 x 2, and two crops whose first look does not count
LAST = heads(0.1, 0.2, 0.6, 0.1, 0.4, 0.3, 0.2, 0.1, 0.1, 0.2, 0.3, 0.4)
X = torch.zeros(1, 12, 1)


def test_twelve_tokens_by_hand():
    # 8 tokens: floor(0.25 x 8) = 2 for the thumbnail; floor(0.75 x 4) = 3 marks, one left and two right: 6 as 2 and 4.
    assert marks(FIRST[0, :, :4], (1, 2), 0.25).tolist() == [[1, 2]]
    assert budgets(FIRST[0, :, :4], 8, (1, 2), 0.25).tolist() == [[2, 2, 4]]
    made = hired(X, 8, cls_first=FIRST, cls_attention=LAST, crops=(1, 2), alpha=0.25)
    assert made.order.tolist() == [[1, 2, 4, 5, 8, 9, 10, 11]]
    # 6 tokens: 1 for the thumbnail, 5 as 1.67 and 3.33; both quotients are then 1/2, and the lower crop comes first.
    assert budgets(FIRST[0, :, :4], 6, (1, 2), 0.25).tolist() == [[1, 2, 3]]
    # 9 tokens: 7 as 2.33 and 4.67, of which the right crop holds 4.
    assert budgets(FIRST[0, :, :4], 9, (1, 2), 0.25).tolist() == [[2, 3, 4]]


def test_the_thumbnail_takes_what_crops_cannot_hold():
    first = FIRST[0, :, :4]
    assert budgets(first, 11, (1, 2), 0.0).tolist() == [[3, 4, 4]]
    assert budgets(first, 8, (1, 2), 0.0)[0, 0] == 0
    assert budgets(first, 3, (1, 2), 1.0).tolist() == [[3, 0, 0]]
    assert budgets(first, 6, (1, 2), 1.0).tolist() == [[4, 1, 1]]  # no marks: all crops alike


def test_marks_lie_in_the_crops_and_not_in_bands():
    first = torch.zeros(1, 16)
    first[0, [0, 1, 4, 5]] = 1  # the upper left quarter: two rows of the flat map
    assert marks(first, (2, 2), 0.75).tolist() == [[4, 0, 0, 0]]
    assert marks(first, (1, 2), 0.75).tolist() == [[4, 0]]
    assert marks(first, (4, 1), 0.75).tolist() == [[2, 2, 0, 0]]
    assert marks(torch.ones(1, 9), (1, 3), 0.0).tolist() == [[3, 3, 3]]


@pytest.mark.parametrize(("crops", "m"), [((2, 2), 9), ((1, 3), 16), ((3, 1), 4), ((2, 3), 4), ((1, 1), 16)])
@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.5, 0.8, 1.0])
def test_it_is_the_recipe_in_plain_python(crops, m, alpha):
    n = m * (1 + crops[0] * crops[1])
    generator = torch.Generator().manual_seed(n)
    first, last = (torch.randint(0, 9, (4, 2, n), generator=generator).double() / 8 for _ in range(2))
    for k in (1, 5, n // 3, n // 2, n - 1, n):
        made = hired(
            torch.zeros(4, n, 1, dtype=torch.double), k, cls_first=first, cls_attention=last, crops=crops, alpha=alpha
        )
        for row in range(4):
            expected = plain(first.sum(1)[row].tolist(), last.sum(1)[row].tolist(), k, crops, alpha)
            assert made.order[row].tolist() == expected


def test_each_layer_decides_its_part():
    n = 5 * 16
    x, first, last = torch.zeros(2, n, 1), torch.rand(2, 2, n), torch.rand(2, 3, n)
    made = hired(x, 20, cls_first=first, cls_attention=last)
    other = first.clone()
    other[:, :, 16:] = 0  # what crops look at first does not matter
    assert torch.equal(hired(x, 20, cls_first=other, cls_attention=last).order, made.order)
    flipped = first.flip(2).roll(16, 2)
    moved = hired(x, 20, cls_first=flipped, cls_attention=last).order
    assert torch.equal((moved < 16).sum(1), (made.order < 16).sum(1))
    assert not torch.equal(moved, made.order)
    assert not torch.equal(hired(x, 20, cls_first=first, cls_attention=first.repeat(1, 2, 1)).order, made.order)
    assert (hired(x, 20, cls_first=first, cls_attention=last, alpha=0.2).order < 16).sum(1).tolist() == [4, 4]


def test_heads_are_summed():
    first = torch.zeros(1, 2, 20)
    first[0, 0, 0], first[0, :, 3] = 0.5, 0.3  # 0.5 in one head, 0.6 in two
    last = torch.zeros(1, 2, 20)
    last[0, 0, 17], last[0, :, 18] = 0.5, 0.3
    made = hired(torch.zeros(1, 20, 1), 2, cls_first=first, cls_attention=last, alpha=0.7)
    assert marks(first.sum(1)[:, :4], (2, 2), 0.7).tolist() == [[0, 0, 0, 1]]
    assert made.order.tolist() == [[0, 18]]


@pytest.mark.parametrize(
    ("k", "given", "message"),
    [
        (0, {}, "k=0 came, expected a whole number from 1 to the 12 tokens"),
        (13, {}, "k=13 came"),
        (2, {"x": X[0]}, r"x of shape \(12, 1\) came"),
        (2, {"cls_first": FIRST[..., 1:]}, r"cls_first of shape \(1, 1, 11\) came, expected \(1, any, 12\)"),
        (2, {"cls_attention": LAST[0]}, "cls_attention of shape"),
        (2, {"cls_attention": LAST / 0}, "cls_attention holds NaN or infinity"),
        (2, {"crops": (2, 2)}, r"crops=\(2, 2\) came for 12 tokens"),
        (2, {"crops": (1, 3)}, r"crops=\(1, 3\) came for 12 tokens"),
        (2, {"crops": (-1, -2)}, r"crops=\(-1, -2\) came for 12 tokens"),
        (2, {"alpha": 1.1}, "alpha=1.1 came, expected 0 to 1"),
        (2, {"alpha": -0.1}, "alpha=-0.1 came"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_bad_input_is_refused(k, given, message):
    arguments = {"x": X, "cls_first": FIRST, "cls_attention": LAST, "crops": (1, 2)} | given
    with pytest.raises(ValueError, match=message):
        hired(arguments.pop("x"), k, **arguments)
