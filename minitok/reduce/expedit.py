"""Expedit: cluster the tokens around the middle of a trained network, and rebuild all of them afterwards.

Liang, Yuan, Ding, Luo, Lin, Jia, Z. Zhang, C. Zhang, Hu: Expediting Large-Scale Vision Transformer for Dense Prediction
without Fine-tuning, 2022, arXiv 2210.01035.

Mechanism: clustering begins with the means S of a coarse grid of cells. Five times, token i goes to centre j with the
share `a_ji = softmax_j(-tau |x_i - s_j|^2)`, tau = 0.01, where only centres within two cells of its own count, and
`s_j = sum_i a_ji x_i / sum_i a_ji`. Blocks then run on the centres alone, which become S'. Reconstruction: token i is
`sum_j w_ij s'_j` with `w_ij = exp(-tau |x_i - s_j|^2)` over the 20 nearest centres, divided by their sum; x and s are
those before the blocks, only s' is new. Nothing is trained.
Differs from the paper: weights are found from logarithms, so that no centre runs empty and no token is without one; of
equally near centres all are kept, as in the authors' code, even beyond 20. Their code divides w by its length (L2), not
by its sum: `p=2` does so. A number of centres without two like factors gives long cells.
Notebook: notebooks/06_reduce/07_expedit.ipynb
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from minitok.reduce._common import Blended, Reduction, check_signal, check_tokens, precise


def coarse(k: int, grid: tuple[int, int]) -> tuple[int, int]:
    """Rows and columns of k cells over a grid: the factors of k whose cells are nearest to squares.

    >>> coarse(64, (16, 16)), coarse(32, (16, 16)), coarse(6, (20, 10)), coarse(7, (4, 4))
    ((8, 8), (4, 8), (3, 2), (1, 7))

    Of two that are as near, the one with fewer rows.
    """
    rows = [i for i in range(1, k + 1) if k % i == 0]
    best = min(rows, key=lambda i: round(abs(math.log(grid[0] / i) - math.log(grid[1] * i / k)), 9))
    return best, k // best


def near(
    grid: tuple[int, int], cells: tuple[int, int], window: int = 5, device: torch.device | None = None
) -> Bool[Tensor, "k n"]:
    """Which centres a token may go to: those whose cell is in a window of so many cells around its own.

    >>> near((1, 4), (1, 4), window=3).int().tolist()
    [[1, 1, 0, 0], [1, 1, 1, 0], [0, 1, 1, 1], [0, 0, 1, 1]]
    """
    own = (torch.arange(n, device=device) * m // n for n, m in zip(grid, cells, strict=True))
    centre = (torch.arange(m, device=device) for m in cells)
    apart = torch.cartesian_prod(*own) - torch.cartesian_prod(*centre)[:, None]
    return (apart.abs() <= window // 2).all(-1)


def squared(x: Float[Tensor, "b n c"], s: Float[Tensor, "b k c"]) -> Float[Tensor, "b k n"]:
    """The squared distance of each centre from each token, never below 0."""
    products = s @ x.mT
    return (s.square().sum(-1)[..., None] + x.square().sum(-1)[:, None] - 2 * products).clamp(min=0)


def expedit(
    x: Float[Tensor, "b n c"],
    k: int,
    *,
    grid: tuple[int, int] | None = None,
    tau: float = 0.01,
    rounds: int = 5,
    window: int = 5,
) -> Blended:
    """The clustering layer: k centres, row by row of their coarse grid; each is a mean of tokens.

    >>> x = torch.tensor([[[0.0], [1.0], [9.0], [10.0]]])
    >>> expedit(x, 2, grid=(1, 4), tau=100.0).apply(x).flatten().tolist()
    [0.5, 9.5]

    `grid` is the tokens' rows and columns, by default a square. As in the authors' code no gradient passes through the
    weights. In another model: the tokens after the block before which to begin, patches only. Source: section 3.2.
    Raises `ValueError` for tokens that are not finite (b, n, c), a k outside 1 to n, a grid of another number of
    tokens, a tau that is not above 0, no rounds, and a window that is not odd.
    """
    check_tokens(x, k)
    k, n = int(k), x.shape[1]
    side = math.isqrt(n)
    rows, columns = (side, side) if grid is None else grid
    if min(rows, columns) < 1 or rows * columns != n:
        raise ValueError(f"grid={grid} came, expected rows and columns of the {n} tokens of x")
    if not tau > 0 or rounds < 1 or window < 1 or window % 2 == 0:
        raise ValueError(f"tau={tau}, rounds={rounds} and window={window} came, expected above 0, at least 1, odd")
    wide, cells = precise(x).detach(), coarse(k, (rows, columns))
    s = F.adaptive_avg_pool2d(wide.mT.unflatten(2, (rows, columns)), cells).flatten(2).mT
    barred, weights = ~near((rows, columns), cells, window, x.device), wide.new_empty(0)
    for _ in range(rounds):
        shares = (-tau * squared(wide, s)).masked_fill(barred, -torch.inf).log_softmax(1)
        weights = shares.softmax(2)  # each share, divided by their sum over tokens
        s = weights @ wide
    return Reduction.blend(weights)


def reconstruction(
    x: Float[Tensor, "b n c"],
    centres: Float[Tensor, "b k c"],
    *,
    tau: float = 0.01,
    nearest: int = 20,
    p: float = 1.0,
) -> Float[Tensor, "b n k"]:
    """The reconstruction layer's weights: `weights @ refined` are all tokens again, from centres that blocks refined.

    >>> x, centres = torch.tensor([[[0.0], [1.0]]]), torch.tensor([[[0.0], [2.0]]])
    >>> [[round(w, 2) for w in row] for row in reconstruction(x, centres, tau=0.5)[0].tolist()]
    [[0.88, 0.12], [0.5, 0.5]]

    x and `centres` are those before the blocks. Only the `nearest` centres of a token count. Weights are divided by
    their sum (p = 1: the paper), or by their length (p = 2: the authors' code; equal ones then sum up to the root of
    their number). Source: section 3.3. Raises `ValueError` for inputs that are not finite or do not fit one another.
    """
    check_signal("x", x, (None, None, None))
    check_signal("centres", centres, (len(x), None, x.shape[2]))
    if not tau > 0 or nearest < 1 or not p > 0:
        raise ValueError(f"tau={tau}, nearest={nearest} and p={p} came, expected above 0, at least 1, above 0")
    closeness = -tau * squared(precise(x), precise(centres)).mT
    least = closeness.topk(min(nearest, closeness.shape[2]), dim=-1).values[..., -1:]
    weights = (closeness - closeness.amax(-1, keepdim=True)).exp()
    return F.normalize(weights.where(closeness >= least, 0.0), p=p, dim=-1)
