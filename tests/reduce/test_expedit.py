import math

import pytest
import torch

from minitok.reduce.expedit import coarse, expedit, near, reconstruction, squared


def cells_of(rows, columns, across, down):
    return [(i * across // rows, j * down // columns) for i in range(rows) for j in range(columns)]


def mean_of(x, weights):
    total = sum(weights)
    return [sum(w * token[i] for w, token in zip(weights, x, strict=True)) / total for i in range(len(x[0]))]


def apart(a, b):
    return sum((p - q) ** 2 for p, q in zip(a, b, strict=True))


def clusters_by_hand(x, grid, cells, tau, rounds, window):
    """The clustering layer for one row in plain Python: the weights of each centre over the tokens."""
    (rows, columns), (across, down) = grid, cells
    own = cells_of(rows, columns, across, down)
    centres = []
    for i in range(across):
        for j in range(down):
            reach = range(i * rows // across, -(-(i + 1) * rows // across))
            width = range(j * columns // down, -(-(j + 1) * columns // down))
            members = [row * columns + column for row in reach for column in width]
            centres.append(mean_of([x[m] for m in members], [1.0] * len(members)))
    places, reach = [(i, j) for i in range(across) for j in range(down)], window // 2
    for _ in range(rounds):
        shares = [[0.0] * len(x) for _ in centres]
        for i, token in enumerate(x):
            open_ = [
                j for j, p in enumerate(places) if max(abs(a - b) for a, b in zip(p, own[i], strict=True)) <= reach
            ]
            raw = {j: math.exp(-tau * apart(token, centres[j])) for j in open_}
            for j, value in raw.items():
                shares[j][i] = value / sum(raw.values())
        centres = [mean_of(x, row) for row in shares]
    return [[value / sum(row) for value in row] for row in shares]


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize(
    ("grid", "k", "cells"),
    [((6, 6), 9, (3, 3)), ((6, 6), 4, (2, 2)), ((5, 7), 6, (2, 3)), ((8, 3), 8, (4, 2)), ((1, 10), 5, (1, 5))],
)
def test_it_is_a_plain_loop(seed, grid, k, cells):
    assert coarse(k, grid) == cells
    x = torch.randn(2, grid[0] * grid[1], 4, generator=torch.Generator().manual_seed(seed)).double()
    for tau, rounds, window in ((0.1, 5, 5), (0.7, 2, 3), (0.3, 1, 1)):
        matrix = expedit(x, k, grid=grid, tau=tau, rounds=rounds, window=window).matrix()
        for row in range(2):
            expected = torch.tensor(clusters_by_hand(x[row].tolist(), grid, cells, tau, rounds, window)).double()
            torch.testing.assert_close(matrix[row], expected, atol=1e-9, rtol=1e-7)


def test_four_tokens_by_hand():
    x = torch.tensor([[[0.0], [1.0], [9.0], [10.0]]])
    # Centres 0.5 and 9.5; token 1 goes to the first with exp(-0.01 x 0.25), to the second with exp(-0.01 x 72.25).
    first = 1 / (1 + math.exp(-0.01 * (72.25 - 0.25)))
    outer = 1 / (1 + math.exp(-0.01 * (90.25 - 0.25)))
    made = expedit(x, 2, grid=(1, 4), rounds=1).matrix()[0, 0]
    expected = torch.tensor([outer, first, 1 - first, 1 - outer]) / 2
    torch.testing.assert_close(made, expected, atol=1e-6, rtol=0)


def test_a_sharp_tau_with_as_many_centres_as_tokens_is_the_identity():
    x = torch.randn(2, 36, 5)
    made = expedit(x, 36, tau=1e4)
    torch.testing.assert_close(made.matrix(), torch.eye(36).expand(2, -1, -1), atol=1e-6, rtol=0)
    back = reconstruction(x, made.apply(x), tau=1e4) @ made.apply(x)
    torch.testing.assert_close(back, x, atol=1e-5, rtol=0)
    assert (expedit(x, 36, tau=1e-4).matrix().diagonal(dim1=1, dim2=2) < 0.2).all()


def test_with_a_soft_tau_centres_are_means_of_their_windows():
    x = torch.randn(1, 64, 3)
    made = expedit(x, 16, tau=1e-9, window=1)
    # One cell wide: each centre is the mean of its own cell, whatever tau is.
    grid = x.view(1, 4, 2, 4, 2, 3).mean((2, 4)).flatten(1, 2)
    torch.testing.assert_close(made.apply(x), grid, atol=1e-6, rtol=0)
    assert ((made.matrix() > 0).sum(-1) == 4).all()


def test_no_token_goes_farther_than_the_window():
    for window in (1, 3, 5):
        used = expedit(torch.randn(2, 144, 4), 36, tau=1e-6, window=window).matrix() > 0
        assert torch.equal(used, near((12, 12), (6, 6), window).expand(2, -1, -1))
    # A corner's centre hears three by three cells of four tokens, one in the middle five by five.
    assert used[0].sum(-1).view(6, 6)[0, 0] == 36
    assert used[0].sum(-1).view(6, 6)[2, 2] == 100


def test_windows_differ_with_the_grid():
    assert near((2, 2), (2, 2), 1).int().tolist() == torch.eye(4).int().tolist()
    assert near((2, 4), (1, 2), 1).int().tolist() == [[1, 1, 0, 0, 1, 1, 0, 0], [0, 0, 1, 1, 0, 0, 1, 1]]
    x = torch.randn(1, 96, 3)
    assert not torch.allclose(expedit(x, 24, grid=(8, 12)).matrix(), expedit(x, 24, grid=(12, 8)).matrix())


@pytest.mark.parametrize(
    ("k", "grid", "cells"),
    [(1, (3, 9), (1, 1)), (12, (12, 12), (3, 4)), (13, (4, 4), (1, 13)), (8, (4, 8), (2, 4)), (8, (8, 4), (4, 2))],
)
def test_cells_are_as_square_as_their_number_lets_them_be(k, grid, cells):
    assert coarse(k, grid) == cells


def test_distances_are_never_negative():
    x = torch.full((1, 5, 3), 1e4)
    assert (squared(x, x + 1e-3) >= 0).all()
    assert squared(torch.tensor([[[1.0, 2.0]]]), torch.tensor([[[4.0, 6.0]]])).item() == 25


def rebuilt_by_hand(x, centres, tau, nearest, p):
    rows = []
    for token in x:
        values = sorted(((math.exp(-tau * apart(token, s)), j) for j, s in enumerate(centres)), reverse=True)
        row = [0.0] * len(centres)
        for value, j in values[:nearest]:
            row[j] = value
        length = sum(v**p for v in row) ** (1 / p)
        rows.append([v / length for v in row])
    return rows


@pytest.mark.parametrize(("nearest", "p"), [(20, 1.0), (3, 1.0), (3, 2.0), (1, 1.0), (12, 2.0)])
def test_rebuilding_is_a_plain_loop(nearest, p):
    x, centres = torch.randn(2, 7, 3).double(), torch.randn(2, 12, 3).double()
    weights = reconstruction(x, centres, tau=0.4, nearest=nearest, p=p)
    for row in range(2):
        expected = rebuilt_by_hand(x[row].tolist(), centres[row].tolist(), 0.4, nearest, p)
        torch.testing.assert_close(weights[row], torch.tensor(expected).double(), atol=1e-9, rtol=1e-7)


def test_the_paper_divides_by_the_sum_and_the_code_by_the_length():
    x, centres = torch.zeros(1, 1, 2), torch.ones(1, 16, 2)
    paper, code = (reconstruction(x, centres, p=p) for p in (1.0, 2.0))
    assert paper.sum().item() == pytest.approx(1)
    assert code.sum().item() == pytest.approx(4)  # sixteen equal weights: the root of 16
    # Twenty centres count by default, and of equally near ones all.
    spread = torch.arange(30.0).view(1, 30, 1)
    assert (reconstruction(torch.zeros(1, 1, 1), spread) > 0).sum() == 20
    assert (reconstruction(torch.zeros(1, 1, 2), torch.ones(1, 30, 2)) > 0).sum() == 30


def test_far_away_tokens_still_have_weights():
    x = torch.full((1, 4, 2), 1e3)
    centres = torch.tensor([[[0.0, 0.0], [1.0, 1.0]]])
    weights = reconstruction(x, centres)
    assert weights.sum(-1).tolist() == [[1.0] * 4]
    assert (weights[..., 1] == 1).all()
    lonely = torch.zeros(1, 16, 2)
    lonely[0, 15] = 1e3
    assert expedit(lonely, 4).apply(lonely).isfinite().all()


def test_no_gradient_passes_through_the_choice():
    x = torch.randn(1, 16, 3, requires_grad=True)
    made = expedit(x, 4, tau=0.5)
    assert not made.matrix().requires_grad
    (gradient,) = torch.autograd.grad(made.apply(x).sum(), x)
    torch.testing.assert_close(gradient, made.matrix().sum(1)[..., None].expand_as(x), atol=1e-6, rtol=0)


X = torch.zeros(1, 12, 2)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: expedit(X, 0), "k=0 came, expected a whole number from 1 to the 12 tokens of x"),
        (lambda: expedit(X, 13), "k=13 came"),
        (lambda: expedit(X, 4), "grid=None came, expected rows and columns of the 12 tokens of x"),
        (lambda: expedit(X, 4, grid=(3, 5)), r"grid=\(3, 5\) came"),
        (lambda: expedit(X, 4, grid=(-3, -4)), r"grid=\(-3, -4\) came"),
        (lambda: expedit(X, 4, grid=(3, 4), tau=0.0), "tau=0.0, rounds=5 and window=5 came, expected above 0"),
        (lambda: expedit(X, 4, grid=(3, 4), rounds=0), "rounds=0"),
        (lambda: expedit(X, 4, grid=(3, 4), window=4), "window=4 came, expected above 0, at least 1, odd"),
        (lambda: expedit(X, 4, grid=(3, 4), window=-1), "window=-1 came"),
        (lambda: reconstruction(X, X[..., :1]), r"centres of shape \(1, 12, 1\) came, expected \(1, any, 2\)"),
        (lambda: reconstruction(X / 0, X), "x holds NaN or infinity"),
        (lambda: reconstruction(X, X, tau=-1.0), "tau=-1.0, nearest=20 and p=1.0 came, expected above 0"),
        (lambda: reconstruction(X, X, nearest=0), "nearest=0"),
        (lambda: reconstruction(X, X, p=0.0), "p=0.0 came"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_bad_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
