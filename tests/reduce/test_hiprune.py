import pytest
import torch

from minitok.reduce.fastv import scores
from minitok.reduce.fopru import fopru
from minitok.reduce.hiprune import anchors, crossed, hiprune


def paid(*received: float) -> torch.Tensor:
    """Attention of one head and one payer."""
    return torch.tensor(received)[None, None, None]


def grid_of(mask: torch.Tensor, width: int) -> list[str]:
    return ["".join("#" if there else "." for there in row) for row in mask[0].view(-1, width).tolist()]


def by_hand(middle, deep, k, grid, alpha):
    """The recipe for one row in plain Python."""
    height, width = grid
    count = min(round(alpha * k / 5), k // 5)
    chosen = set()
    for j in sorted(range(len(middle)), key=lambda j: (-middle[j], j))[:count]:
        y, x = divmod(j, width)
        near = [(y, x), (y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)]
        chosen |= {r * width + c for r, c in near if 0 <= r < height and 0 <= c < width}
    rest = [j for j in sorted(range(len(deep)), key=lambda j: (-deep[j], j)) if j not in chosen]
    return sorted([*chosen, *rest[: k - len(chosen)]])


def test_nine_tokens_by_hand():
    middle = paid(0.0, 0.1, 0.0, 0.0, 0.5, 0.0, 0.2, 0.2, 0.0)
    deep = paid(0.3, 0.0, 0.1, 0.0, 0.0, 0.0, 0.0, 0.2, 0.4)
    x = torch.arange(9.0).view(1, 9, 1)
    # One anchor (4) with 1, 3, 5 and 7, and the best two of the rest.
    assert hiprune(x, 7, middle=middle, deep=deep, alpha=0.8).order.tolist() == [[0, 1, 3, 4, 5, 7, 8]]
    # round(0.1 x 7 / 5) = 0 anchors: the deep layer alone.
    assert hiprune(x, 3, middle=middle, deep=deep).order.tolist() == [[0, 7, 8]]
    # As one row of nine the neighbours of 4 are 3 and 5.
    assert hiprune(x, 5, middle=middle, deep=deep, alpha=1.0, grid=(1, 9)).order.tolist() == [[0, 3, 4, 5, 8]]


def test_a_cross_ends_at_the_rim():
    chosen = torch.zeros(1, 12, dtype=torch.bool)
    chosen[0, [3, 8]] = True
    assert grid_of(crossed(chosen, (3, 4)), 4) == ["..##", "#..#", "##.."]
    one = torch.zeros(1, 12, dtype=torch.bool)
    one[0, 5] = True
    assert grid_of(crossed(one, (3, 4)), 4) == [".#..", "###.", ".#.."]
    assert grid_of(crossed(one, (12, 1)), 1)[3:8] == [".", "#", "#", "#", "."]
    assert int(one.sum()) == 1


@pytest.mark.parametrize(
    ("k", "alpha", "count"), [(25, 1.0, 5), (25, 0.1, 0), (26, 0.1, 1), (28, 0.5, 3), (28, 1.0, 5), (4, 1.0, 0)]
)
def test_the_number_of_anchors(k, alpha, count):
    found = anchors(torch.rand(3, 30), k, alpha)
    assert found.sum(1).tolist() == 3 * [count]


def test_anchors_never_exceed_the_budget():
    assert anchors(torch.rand(1, 30), 8, 1.0).sum() == 1  # round(8 / 5) = 2 crosses could hold ten
    x, maps = torch.randn(2, 30, 2), torch.rand(2, 1, 1, 30)
    for k in range(1, 31):
        assert hiprune(x, k, middle=maps, deep=maps, grid=(5, 6), alpha=1.0).shape == (2, k, 30)


def test_crosses_that_do_not_touch_still_fit_the_budget():
    places = [17, 21, 25, 81, 85, 89]  # on a grid of 16 x 16: round(28 / 5) = 6 crosses would be 30 tokens
    middle = torch.zeros(1, 1, 1, 256)
    middle[..., places] = torch.tensor([6.0, 5, 4, 3, 2, 1])
    made = hiprune(torch.zeros(1, 256, 1), 28, middle=middle, deep=torch.zeros(1, 1, 1, 256), alpha=1.0)
    crosses = {j + step for j in places[:5] for step in (-16, -1, 0, 1, 16)}
    assert set(made.order[0].tolist()) == crosses | {0, 2, 3}


@pytest.mark.parametrize("grid", [(4, 6), (6, 4), (1, 24), (24, 1)])
@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_it_is_the_recipe_in_plain_python(grid, alpha):
    middle, deep = torch.rand(5, 2, 25, 24), torch.rand(5, 3, 7, 24)
    for k in (1, 5, 11, 17, 24):
        made = hiprune(torch.randn(5, 24, 2), k, middle=middle, deep=deep, grid=grid, alpha=alpha)
        for row in range(5):
            received = (middle.mean((1, 2))[row].tolist(), deep.mean((1, 2))[row].tolist())
            assert made.order[row].tolist() == by_hand(*received, k, grid, alpha)


def test_without_anchors_it_is_fopru_of_the_deep_layer():
    deep, x = torch.rand(3, 2, 16, 16), torch.randn(3, 16, 2)
    made = hiprune(x, 6, middle=torch.rand(3, 2, 16, 16), deep=deep, alpha=0.0)
    assert torch.equal(made.order, fopru(x, 6, attention=deep / deep.sum(-1, keepdim=True).amax()).order)


def test_each_signal_decides_its_part():
    x, middle, deep = torch.randn(1, 36, 2), torch.rand(1, 2, 37, 36), torch.rand(1, 2, 37, 36)
    made = hiprune(x, 20, middle=middle, deep=deep, alpha=0.5)
    for changed in ({"middle": torch.rand(1, 2, 37, 36)}, {"deep": torch.rand(1, 2, 37, 36)}, {"alpha": 1.0}):
        other = hiprune(x, 20, **({"middle": middle, "deep": deep, "alpha": 0.5} | changed))
        assert not torch.equal(other.order, made.order)
    first = crossed(anchors(scores(middle, "all"), 20, 0.5), (6, 6))[0].nonzero()[:, 0].tolist()
    assert set(first) <= set(made.order[0].tolist())


def test_deep_scores_of_any_size_never_outvote_a_buffer():
    middle, deep = paid(0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0), paid(50.0, 0, 90.0, 0, 0, 0, 70.0, 0, 60.0)
    made = hiprune(torch.zeros(1, 9, 1), 5, middle=middle, deep=deep, alpha=1.0)
    assert made.order.tolist() == [[1, 3, 4, 5, 7]]
    negative = hiprune(torch.zeros(1, 9, 1), 6, middle=middle, deep=deep - 100, alpha=1.0)
    assert negative.order.tolist() == [[1, 2, 3, 4, 5, 7]]


def test_rows_of_a_batch_have_their_own_crosses():
    middle = torch.zeros(2, 1, 1, 25)
    middle[0, 0, 0, 12], middle[1, 0, 0, 0] = 1, 1
    made = hiprune(torch.zeros(2, 25, 1), 5, middle=middle, deep=torch.zeros(2, 1, 1, 25), alpha=1.0)
    assert made.order.tolist() == [[7, 11, 12, 13, 17], [0, 1, 2, 3, 5]]


X, MAPS = torch.zeros(1, 9, 2), torch.rand(1, 2, 10, 9)


@pytest.mark.parametrize(
    ("k", "given", "message"),
    [
        (0, {}, "k=0 came, expected a whole number from 1 to the 9 tokens"),
        (10, {}, "k=10 came"),
        (2, {"x": X[0]}, r"x of shape \(9, 2\) came"),
        (2, {"middle": MAPS[..., 1:]}, r"middle of shape \(1, 2, 10, 8\) came, expected \(1, any, any, 9\)"),
        (2, {"deep": MAPS[:, 0]}, "deep of shape"),
        (2, {"deep": MAPS / 0}, "deep holds NaN or infinity"),
        (2, {"middle": MAPS[:, :0]}, r"middle of shape \(1, 0, 10, 9\) came, expected at least one head and one payer"),
        (2, {"deep": MAPS[:, :, :0]}, r"deep of shape \(1, 2, 0, 9\) came, expected at least one"),
        (2, {"grid": (2, 4)}, r"grid=\(2, 4\) came, expected rows and columns of the 9 tokens"),
        (2, {"grid": (-3, -3)}, r"grid=\(-3, -3\) came"),
        (2, {"alpha": 1.1}, "alpha=1.1 came, expected 0 to 1"),
        (2, {"alpha": -0.1}, "alpha=-0.1 came"),
        (2, {"x": X[:, :8], "middle": MAPS[..., 1:], "deep": MAPS[..., 1:]}, "grid=None came"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_bad_input_is_refused(k, given, message):
    arguments = {"x": X, "middle": MAPS, "deep": MAPS} | given
    with pytest.raises(ValueError, match=message):
        hiprune(arguments.pop("x"), k, **arguments)
