"""HiPrune: anchors from a middle layer of the vision encoder, their neighbours, and the rest from a deep layer.

Liu, Du, Zhu, Lian, Li, Chen: HiPrune: Training-Free Visual Token Pruning via Hierarchical Attention in Vision-Language
Models, 2025, arXiv 2508.00553.

Mechanism: the attention that patch j receives in a layer is `phi_j = mean over heads and payers i of A[h, i, j]`. In
middle layers that points at objects, in deep ones it is spread over the picture. Of a budget of k tokens,
`round(alpha k / 5)` anchors have the highest phi in the middle layer; the four neighbours of each on the grid are its
buffers; the registers fill the budget up with the highest phi of the deep layer, whose features the language model
reads. Kept tokens stand in their order. No text, no CLS token needed; where there is one it pays like the others.
Differs from the paper: its code takes the neighbours by number, so that an anchor at the end of a row has one at the
start of the next, and what would lie outside the picture is its first or last patch; here a neighbour is one on the
grid. Where anchors and buffers would exceed k, there are k // 5 anchors.
Notebook: notebooks/06_reduce/15_hiprune.ipynb
"""

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from minitok.reduce._common import Kept, Reduction, check_signal, check_tokens, highest
from minitok.reduce.fastv import scores


def crossed(chosen: Bool[Tensor, "b n"], grid: tuple[int, int]) -> Bool[Tensor, "b n"]:
    """The tokens of a grid (rows, columns) that are chosen, and their neighbours above, below, left and right.

    >>> crossed(torch.tensor([[True, False, False, False, False, False]]), (2, 3)).int().tolist()
    [[1, 1, 0, 1, 0, 0]]
    """
    there = chosen.unflatten(1, grid)
    found = there.clone()
    found[:, 1:] |= there[:, :-1]
    found[:, :-1] |= there[:, 1:]
    found[:, :, 1:] |= there[:, :, :-1]
    found[:, :, :-1] |= there[:, :, 1:]
    return found.flatten(1)


def anchors(middle: Float[Tensor, "b n"], k: int, alpha: float = 0.1) -> Bool[Tensor, "b n"]:
    """The tokens with the highest scores in the middle layer, so many that with four neighbours each they are alpha k.

    >>> anchors(torch.tensor([[0.1, 0.4, 0.0, 0.3, 0.4, 0.2]]), k=6, alpha=0.8).int().tolist()
    [[0, 1, 0, 0, 0, 0]]

    The number is `round(alpha k / 5)`, at most k // 5; of equal scores the lower index counts.
    """
    count = min(round(alpha * int(k) / 5), int(k) // 5)
    chosen = torch.zeros_like(middle, dtype=torch.bool)
    return chosen.scatter(1, highest(middle, count), True) if count else chosen


def hiprune(
    x: Float[Tensor, "b n c"],
    k: int,
    *,
    middle: Float[Tensor, "b h m n"],
    deep: Float[Tensor, "b g l n"],
    grid: tuple[int, int] | None = None,
    alpha: float = 0.1,
) -> Kept:
    """Keeps anchors, buffers and registers, k in all, in the order of the input.

    `middle` and `deep` are what the tokens of two layers pay to the n patches, CLS as a payer too where there is one;
    in a ViT of Hugging Face's `output.attentions[layer][..., 1:]`. `grid` is rows and columns, by default a square.
    Raises `ValueError` for bad tokens, a k outside 1 to n, attention of another shape or of nobody, a grid of another
    number of tokens, and an alpha outside 0 to 1.
    """
    check_tokens(x, k)
    b, n, _ = x.shape
    for name, paid in (("middle", middle), ("deep", deep)):
        check_signal(name, paid, (b, None, None, n))
        if 0 in paid.shape[1:3]:
            raise ValueError(f"{name} of shape {tuple(paid.shape)} came, expected at least one head and one payer")
    height, width = grid or (math.isqrt(n), math.isqrt(n))
    if height < 1 or height * width != n:
        raise ValueError(f"grid={grid} came, expected rows and columns of the {n} tokens")
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha={alpha} came, expected 0 to 1")
    first = crossed(anchors(scores(middle, "all"), k, alpha), (height, width))
    rest = scores(deep, "all")
    # Anchors and buffers stand above all others.
    return Reduction.keep(highest(rest + first * (1 + rest.amax(1, True) - rest.amin(1, True)), k), n)
