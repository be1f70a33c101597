import pytest
import torch

from minitok.reduce._common import highest
from minitok.reduce.divprune import divprune
from minitok.reduce.fopru import fopru, rows, significance


def random_attention(b: int, h: int, n: int) -> torch.Tensor:
    return torch.randn(b, h, n, n).softmax(-1)


def paid_to(*shares: float) -> torch.Tensor:
    """Attention of one head in which every token pays the same shares."""
    return torch.tensor(shares).expand(1, 1, len(shares), -1)


def test_six_tokens_by_hand():
    # Two heads; of head 0 all pay to token 1, of head 1 each token pays half to token 4 and half to token 5.
    first = torch.zeros(6, 6)
    first[:, 1] = 1
    second = torch.zeros(6, 6)
    second[:, 4:] = 0.5
    attention, x = torch.stack([first, second])[None], torch.arange(12.0).view(1, 6, 2)
    assert significance(attention).tolist() == [[0, 0.5, 0, 0, 0.25, 0.25]]
    assert fopru(x, 2, attention=attention).order.tolist() == [[1, 4]]
    assert fopru(x, 3, attention=attention).apply(x).tolist() == [[[2, 3], [8, 9], [10, 11]]]
    # Rows of two add up to 0.5, 0 and 0.5; rows of three to 0.5 and 0.5: the upper one wins.
    assert fopru(x, 4, attention=attention, strategy="row", grid=(3, 2)).order.tolist() == [[0, 1, 4, 5]]
    assert fopru(x, 2, attention=attention, strategy="row", grid=(3, 2)).order.tolist() == [[0, 1]]
    assert fopru(x, 3, attention=attention, strategy="row", grid=(2, 3)).order.tolist() == [[0, 1, 2]]
    assert fopru(x, 2, attention=attention, strategy="row", grid=(6, 1)).order.tolist() == [[1, 4]]


@pytest.mark.parametrize(("b", "h", "n"), [(1, 1, 1), (2, 3, 7), (3, 2, 30)])
def test_significance_is_the_mean_of_what_is_received(b, h, n):
    attention = random_attention(b, h, n)
    for row, found in zip(attention.tolist(), significance(attention).tolist(), strict=True):
        for j in range(n):
            received = [row[head][i][j] for head in range(h) for i in range(n)]
            assert found[j] == pytest.approx(sum(received) / (h * n), abs=1e-6)


def test_it_is_what_is_received_that_counts_not_what_is_paid():
    attention = torch.zeros(1, 1, 3, 3)
    attention[0, 0, 0] = torch.tensor([0.0, 0.0, 1.0])
    assert fopru(torch.zeros(1, 3, 1), 1, attention=attention).order.tolist() == [[2]]


@pytest.mark.parametrize("k", [1, 5, 12, 13])
def test_the_ranks_are_those_of_a_plain_sort(k):
    attention, x = random_attention(4, 2, 13), torch.randn(4, 13, 3)
    found = fopru(x, k, attention=attention).order.tolist()
    for scores, kept in zip(attention.mean((1, 2)).tolist(), found, strict=True):
        assert kept == sorted(sorted(range(13), key=lambda j: (-scores[j], j))[:k])


@pytest.mark.parametrize("grid", [(3, 5), (5, 3), (15, 1), (1, 15)])
def test_the_rows_are_those_of_a_plain_loop(grid):
    height, width = grid
    scores = torch.rand(4, 15)
    for count in range(1, height + 1):
        found = rows(scores, count * width, grid).tolist()
        for line, kept in zip(scores.tolist(), found, strict=True):
            sums = [sum(line[r * width : (r + 1) * width]) for r in range(height)]
            best = sorted(sorted(range(height), key=lambda r: (-sums[r], r))[:count])
            assert kept == [r * width + c for r in best for c in range(width)]


def test_a_row_of_middling_tokens_beats_a_row_with_one_peak():
    """Two strategies, two answers from the same attention."""
    x, attention = torch.zeros(1, 6, 1), paid_to(0.4, 0.0, 0.0, 0.2, 0.2, 0.2)
    assert fopru(x, 3, attention=attention).order.tolist() == [[0, 3, 4]]
    assert fopru(x, 3, attention=attention, strategy="row", grid=(2, 3)).order.tolist() == [[3, 4, 5]]


def test_equal_tokens_and_rows_go_by_the_lower_index():
    x, attention = torch.zeros(1, 8, 1), torch.full((1, 2, 8, 8), 1 / 8)
    assert fopru(x, 3, attention=attention).order.tolist() == [[0, 1, 2]]
    assert fopru(x, 4, attention=attention, strategy="row", grid=(4, 2)).order.tolist() == [[0, 1, 2, 3]]


@pytest.mark.parametrize("strategy", ["rank", "row"])
def test_all_tokens_are_the_identity(strategy):
    x = torch.randn(2, 12, 3)
    reduction = fopru(x, 12, attention=random_attention(2, 2, 12), strategy=strategy, grid=(3, 4))
    assert torch.equal(reduction.apply(x), x)
    assert torch.equal(reduction.matrix(), torch.eye(12).expand(2, -1, -1))


def test_permuting_the_tokens_permutes_the_ranks():
    attention, x, order = random_attention(1, 2, 20), torch.randn(1, 20, 3), torch.randperm(20)
    kept = fopru(x, 6, attention=attention).order[0]
    moved = fopru(x[:, order], 6, attention=attention[:, :, order][..., order]).order[0]
    assert order[moved].sort().values.tolist() == kept.tolist()


def test_permuting_the_rows_of_the_grid_permutes_what_is_kept():
    scores, order = torch.rand(1, 20), torch.randperm(5)
    moved = rows(scores.view(1, 5, 4)[:, order].flatten(1), 8, (5, 4))[0]
    back = torch.arange(20).view(5, 4)[order].flatten()[moved].sort().values
    assert back.tolist() == rows(scores, 8, (5, 4))[0].tolist()


def test_half_precision_counts_in_float32():
    # 1,001 payers of 2^-8 and a little: a sum in bfloat16 stops growing at 2.
    attention = torch.full((1, 1, 1001, 1001), 2.0**-8).bfloat16()
    attention[0, 0, :, 7] = 2.0**-8 * (1 + 2.0**-7)
    scores = significance(attention)
    assert scores.dtype == torch.float32
    assert scores[0, 7].item() == pytest.approx(2.0**-8 * (1 + 2.0**-7), rel=1e-5)
    assert fopru(torch.zeros(1, 1001, 1), 1, attention=attention).order.tolist() == [[7]]


def test_no_batch_gives_no_rows():
    for strategy in ("rank", "row"):
        reduction = fopru(torch.zeros(0, 6, 2), 4, attention=torch.zeros(0, 2, 6, 6), strategy=strategy, grid=(3, 2))
        assert reduction.apply(torch.zeros(0, 6, 2)).shape == (0, 4, 2)


def test_gradients_reach_only_what_is_kept():
    x = torch.randn(1, 6, 2, requires_grad=True)
    kept = fopru(x, 2, attention=paid_to(0.1, 0.4, 0.1, 0.1, 0.2, 0.1)).apply(x)
    (gradient,) = torch.autograd.grad(kept.sum(), x)
    assert gradient[0, :, 0].tolist() == [0, 1, 0, 0, 1, 0]


def test_it_differs_from_a_choice_by_features():
    x, attention = torch.randn(1, 40, 8), random_attention(1, 3, 40)
    assert fopru(x, 10, attention=attention).order.tolist() != divprune(x, 10).order.tolist()
    assert fopru(x, 10, attention=attention).order.tolist() != highest(attention.mean((1, 3)), 10).tolist()


X, ATTENTION = torch.zeros(1, 6, 2), torch.full((1, 2, 6, 6), 1 / 6)
ROW = {"strategy": "row", "grid": (3, 2)}


@pytest.mark.parametrize(
    ("x", "k", "given", "message"),
    [
        (X[0], 2, {}, r"x of shape \(6, 2\) came"),
        (X * torch.nan, 2, {}, "x holds NaN"),
        (X, 0, {}, "k=0 came, expected a whole number from 1 to the 6 tokens"),
        (X, 7, {}, "k=7 came, expected a whole number from 1 to the 6 tokens"),
        (
            X,
            2,
            {"attention": ATTENTION[:, :, 1:]},
            r"attention of shape \(1, 2, 5, 6\) came, expected \(1, any, 6, 6\)",
        ),
        (X, 2, {"attention": ATTENTION[:, 0]}, "attention of shape"),
        (X, 2, {"attention": ATTENTION[:, :0]}, "attention of no heads"),
        (X, 2, {"attention": ATTENTION / 0}, "attention holds NaN or infinity"),
        (X, 2, {"attention": ATTENTION.long()}, "attention of type torch.int64"),
        (X, 2, {"strategy": "column"}, "strategy='column' came, expected one of"),
        (X, 2, {"strategy": "row"}, "grid=None came"),
        (X, 3, ROW, "k=3 came, expected a multiple of the 2 tokens of a row"),
        (X, 2, ROW | {"grid": (2, 2)}, r"grid=\(2, 2\) came, expected rows and columns of the 6 tokens"),
        (X, 2, ROW | {"grid": (0, 2)}, r"grid=\(0, 2\) came"),
        (X, 2, ROW | {"grid": (-3, -2)}, r"grid=\(-3, -2\) came"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_bad_input_is_refused(x, k, given, message):
    with pytest.raises(ValueError, match=message):
        fopru(x, k, **({"attention": ATTENTION} | given))
