"""FoPru (Focal Pruning): keep the tokens, or the rows of the picture, that the others look at most.

Jiang, Huang, Liu, Zeng, Li, Cheng, Xu: FoPru: Focal Pruning for Efficient Large Vision-Language Models, 2024,
arXiv 2411.14164.

Mechanism: the vision encoder's attention A (heads, queries, keys) says how much token j matters: its significance is
`phi_j = mean over heads h and queries i of A[h, i, j]`, the attention that it receives. The rank strategy keeps the k
tokens of largest phi. The row strategy adds phi up along each row of the grid and keeps whole rows, so that what is
continuous in the picture, such as a line of text, stays whole. Kept tokens stand in the order of the input.
Differs from the paper: of it only the abstract and the opening of the introduction could be read here, so the formulas
rest on them and on the one public implementation, in a serving system of the same authors (HydraInfer). That takes the
attention received or the attention paid, whichever varies more over the tokens; here it is always the attention
received. Which layer's attention the paper takes, we could not read. A share of kept tokens is a count k here, and the
row strategy takes no k that is not whole rows.
Notebook: notebooks/06_reduce/13_fopru.ipynb
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from minitok.reduce._common import Kept, Reduction, check_signal, check_tokens, highest, precise

STRATEGIES = ("rank", "row")


def significance(attention: Float[Tensor, "b h n n"]) -> Float[Tensor, "b n"]:
    """How much attention each token receives: the mean over heads and over the tokens that pay it, in float32.

    >>> significance(torch.tensor([[[[0.75, 0.25], [0.5, 0.5]]]]))
    tensor([[0.6250, 0.3750]])
    """
    return precise(attention).mean((1, 2))


def rows(scores: Float[Tensor, "b n"], k: int, grid: tuple[int, int]) -> Int[Tensor, "b k"]:
    """The tokens of the rows whose scores add up to most, k in all, ascending; of equal rows the upper one.

    >>> rows(torch.tensor([[0.9, 0.0, 0.4, 0.4, 0.5, 0.6]]), k=4, grid=(3, 2)).tolist()
    [[0, 1, 4, 5]]

    The rows add up to 0.9, 0.8 and 1.1. `grid` is rows and columns. Raises `ValueError` for a grid of another number of
    tokens, and for a k that is not a multiple of the columns: nothing is rounded.
    """
    height, width = grid
    if height < 1 or height * width != scores.shape[1]:
        raise ValueError(f"grid={tuple(grid)} came, expected rows and columns of the {scores.shape[1]} tokens")
    if k % width:
        raise ValueError(f"k={k} came, expected a multiple of the {width} tokens of a row")
    best = highest(scores.unflatten(1, (height, width)).sum(-1), k // width)
    return (best[..., None] * width + torch.arange(width, device=best.device)).flatten(1)


def fopru(
    x: Float[Tensor, "b n c"],
    k: int,
    *,
    attention: Float[Tensor, "b h n n"],
    strategy: str = "rank",
    grid: tuple[int, int] | None = None,
) -> Kept:
    """Keeps the k tokens that receive most attention, or, with `strategy="row"`, the rows of `grid` that do.

    `attention` is that of the layer whose output x is, each token's row adding up to at most 1. Of equal scores the
    lower index counts. Raises `ValueError` for bad tokens, a k outside 1 to n, attention of another shape, an unknown
    strategy, and under `"row"` for a missing grid and for what `rows` refuses.
    """
    check_tokens(x, k)
    b, n, _ = x.shape
    check_signal("attention", attention, (b, None, n, n))
    if attention.shape[1] == 0:
        raise ValueError("attention of no heads came, expected at least one")
    if strategy not in STRATEGIES:
        raise ValueError(f"strategy={strategy!r} came, expected one of {STRATEGIES}")
    scores = significance(attention)
    if strategy == "rank":
        return Reduction.keep(highest(scores, k), n)
    if grid is None:
        raise ValueError('grid=None came, expected rows and columns for strategy="row"')
    return Reduction.keep(rows(scores, k, grid), n)
