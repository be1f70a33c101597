"""VFlowOpt: importance from attention and entropy, recycled leftovers, and parameters that an optimiser finds.

Yang, Xu, Xie, Yang, Li, Lin, Zhu, Chen, Duan, Yue, Lin, Wang, Pang: VFlowOpt: A Token Pruning Framework for LMMs with
Visual Information Flow-Guided Optimization, 2025, arXiv 2508.05211.

Mechanism: A is the attention of the vision encoder's last layer, mean over heads; patch i receives `r_i = mean_j A_ji`.
The importance of patch j is the mean of A_ij over the payers i with `r_i > t mean(r)`, plus `alpha softmax(H)_j`, H the
entropy of the patch's grey values in bits. Before the language model the most important stay; the others are grouped by
cells of m x m patches, and each group becomes one token: its mean, weighed by importance. In two layers of the language
model the least important go, by the same importance. `(r_v, r_1, t, m, alpha)` are found by Bayesian optimisation of
the cosine between the last token's last hidden state with all tokens and with fewer; the budget gives r_2.
Differs from the paper: k tokens are left in all, where in the code their number varies with the occupied cells; where
the cells outnumber k, nothing is recycled. A recycled token stands in the order of its most important member, at the
mean of their places. If no payer passes t, the one that receives most pays. An importance below 0 weighs next to
nothing.
The optimiser is scikit-learn's Gaussian process with expected improvement, where the code takes scikit-optimize.
Notebook: notebooks/06_reduce/20_vflowopt.ipynb
"""

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from minitok.checks import whole
from minitok.reduce._common import Blended, Kept, Reduction, check_signal, check_tokens, highest, precise


def entropy(images: Float[Tensor, "b 3 H W"], patch: int) -> Float[Tensor, "b n"]:
    """The entropy of each patch's grey values in bits: 0 where all are alike, at most 2 log2 of the patch's side.

    >>> entropy(torch.tensor([[0.0, 1.0, 0.5, 0.5], [0.0, 1.0, 0.5, 0.5]]).expand(1, 3, -1, -1), patch=2).tolist()
    [[1.0, 0.0]]

    Grey is the mean of the channels in 256 steps. Raises `ValueError` for images that patches do not tile.
    """
    b, _, height, width = images.shape
    if patch < 1 or height % patch or width % patch:
        raise ValueError(f"patch={patch} came, expected one that tiles {height} x {width}")
    grey = (images * 255).floor().mean(1).round().clamp(0, 255).long()
    patches = grey.unflatten(1, (-1, patch)).unflatten(3, (-1, patch)).transpose(2, 3).reshape(b, -1, patch * patch)
    ones = torch.ones_like(patches, dtype=torch.float32)
    share = torch.zeros(*patches.shape[:2], 256, device=images.device).scatter_add(2, patches, ones) / patch**2
    return torch.xlogy(share, share).sum(-1).abs() / math.log(2)


def importance(
    attention: Float[Tensor, "b h n n"], entropy: Float[Tensor, "b n"], t: float = 0.0, alpha: float = 0.0
) -> Float[Tensor, "b n"]:
    """What payers that receive more than t times the mean pay to each patch, and alpha times a softmax of entropies.

    >>> attention = torch.tensor([[[[0.5, 0.5], [0.75, 0.25]]]])
    >>> importance(attention, torch.zeros(1, 2)).tolist(), importance(attention, torch.zeros(1, 2), t=1.0).tolist()
    ([[0.625, 0.375]], [[0.5, 0.5]])

    `attention` is that of the encoder's last layer among patches. Raises `ValueError` for signals of other shapes.
    """
    b, _, _, n = attention.shape
    check_signal("attention", attention, (b, None, n, n))
    check_signal("entropy", entropy, (b, n))
    paid = precise(attention).mean(1)
    received = paid.mean(1)
    payers = received > t * received.mean(1, keepdim=True)
    most = torch.zeros_like(payers).scatter(1, received.argmax(1, keepdim=True), True)
    payers = torch.where(payers.any(1, keepdim=True), payers, most).to(paid.dtype)
    mean = (payers[:, None] @ paid)[:, 0] / payers.sum(1, keepdim=True)
    return mean + alpha * precise(entropy).softmax(-1)


def least_dropped(x: Float[Tensor, "b n c"], k: int, *, scores: Float[Tensor, "b n"]) -> Kept:
    """Inside the language model: keeps the k tokens of the highest importance, in their order.

    Raises `ValueError` for bad tokens, a k outside 1 to n, and scores of another shape.
    """
    check_tokens(x, k)
    check_signal("scores", scores, tuple(x.shape[:2]))
    return Reduction.keep(highest(scores, k), x.shape[1])


def cells_of(n: int, grid: tuple[int, int] | None, cell: float) -> list[int]:
    """The number of each patch's cell, 0 and up in raster order, on a grid of rows and columns (default: a square).

    >>> cells_of(6, (2, 3), cell=2.0)
    [0, 0, 1, 0, 0, 1]
    """
    height, width = grid or (math.isqrt(n), math.isqrt(n))
    if height < 1 or height * width != n:
        raise ValueError(f"grid={grid} came, expected rows and columns of the {n} tokens")
    if not 1 <= cell < math.inf:
        raise ValueError(f"cell={cell} came, expected a number of at least 1")
    across = int((width - 1) / cell) + 1
    return [int(i / cell) * across + int(j / cell) for i in range(height) for j in range(width)]


def vflowopt(
    x: Float[Tensor, "b n c"],
    k: int,
    *,
    scores: Float[Tensor, "b n"],
    grid: tuple[int, int] | None = None,
    cell: float = 4.0,
) -> Blended:
    """Before the language model: the most important tokens, and one of each cell's others, k in all.

    >>> x = torch.tensor([[[8.0], [4.0], [0.0], [6.0]]])
    >>> vflowopt(x, 2, scores=torch.tensor([[4.0, 2.0, 1.0, 1.0]]), cell=2.0).apply(x).tolist()
    [[[8.0], [3.5]]]

    Tokens 1, 2 and 3 weigh 2, 1 and 1. `scores` are those of `importance`; `cell` is the side of a cell in patches and
    may be a fraction. Of equal scores the lower index counts. Raises `ValueError` for bad tokens, a k outside 1 to n,
    scores of another shape, a grid of another number of tokens, and a cell below 1.
    """
    check_tokens(x, k)
    b, n, _ = x.shape
    check_signal("scores", scores, (b, n))
    numbers = cells_of(n, grid, cell)
    groups = max(numbers) + 1
    if groups > k:
        return Reduction.blend(F.one_hot(highest(scores, k), n).to(precise(scores).dtype))
    cells = torch.tensor(numbers, device=x.device).expand(b, -1)
    rank = scores.argsort(dim=-1, descending=True, stable=True).argsort(-1)
    # With q tokens kept, a cell has a group where its least important token is not among them.
    last = torch.zeros(b, groups, dtype=torch.long, device=x.device).scatter_reduce(1, cells, rank, "amax")
    q = torch.arange(n + 1, device=x.device)
    q = (q + (last[..., None] >= q).sum(1) < k).sum(1, keepdim=True)
    weights = precise(scores)
    weights = weights.maximum(1e-6 * weights.abs().amax(1, keepdim=True).clamp(min=1e-30))
    label = torch.where(rank < q, groups + rank, cells)
    matrix = torch.zeros(b, groups + n, n, dtype=weights.dtype, device=x.device)
    matrix = matrix.scatter(1, label[:, None], weights[:, None])
    first = torch.where(matrix.any(-1), matrix.argmax(-1), n).argsort(-1)[:, :k]
    return Reduction.blend(matrix.gather(1, first[..., None].expand(-1, -1, n)))


def search(
    objective: Callable[[Sequence[float]], float],
    bounds: Sequence[tuple[float, float]],
    calls: int,
    initial: int = 27,
    seed: int = 0,
) -> list[tuple[list[float], float]]:
    """Maximises by Bayesian optimisation: the points that were tried, in their order, each with its value.

    The first `initial` points are drawn by lot; then a Gaussian process (Matern 5/2, length half of the box) goes
    through what is known, and of 2,000 drawn points that is tried which promises most (expected improvement). `initial
    >= calls` is random search.
    Raises `ValueError` for bounds that are none, and for no calls or no initial points.
    """
    if whole("calls", calls, 1) and whole("initial", initial, 1) and any(low >= high for low, high in bounds):
        raise ValueError(f"bounds={bounds} came, expected each low below its high")
    # Here, not above: these imports take longer than all others of the chapter.
    from scipy.stats import norm
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import Matern

    draw = np.random.default_rng(seed)
    low, high = np.array(bounds, dtype=float).T
    tried, values = [], []
    process = GaussianProcessRegressor(Matern(0.5, nu=2.5), alpha=1e-4, optimizer=None, normalize_y=True)  # pyright: ignore[reportArgumentType]
    for call in range(calls):
        point = draw.random(len(bounds))
        if call >= initial:
            process.fit(np.array(tried), np.array(values))
            some = draw.random((2000, len(bounds)))
            mean, spread = process.predict(some, return_std=True)
            gain = mean - max(values)
            z = gain / np.maximum(spread, 1e-12)
            point = some[np.argmax(gain * norm.cdf(z) + spread * norm.pdf(z))]
        tried.append(point)
        values.append(float(objective((low + point * (high - low)).tolist())))
    return [((low + point * (high - low)).tolist(), value) for point, value in zip(tried, values, strict=True)]
