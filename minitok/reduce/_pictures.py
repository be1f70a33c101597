"""Tokens of several pictures: how a budget is shared among them, and the best tokens of each within its share."""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from minitok.checks import readable
from minitok.reduce._common import check_budget, check_signal, highest


def shared(weights: Float[Tensor, "b p"], k: int, most: int) -> Int[Tensor, "b p"]:
    """k tokens shared among p pictures in proportion to their weights, at most so many each.

    >>> shared(torch.tensor([[4.0, 3.0, 1.0, 0.0]]), k=10, most=8).tolist()
    [[5, 4, 1, 0]]

    Each gets at least the whole part of its share (here 5, 3.75, 1.25 and 0), or `most`; what is left goes by the
    method of Jefferson, one after another, to whose weight over (tokens so far + 1) is highest, the lower first.
    Raises `ValueError` for negative weights and for a k outside 1 to p * most.
    """
    check_signal("weights", weights, (None, None))
    if readable(weights) and (weights < 0).any():
        raise ValueError(f"weights down to {float(weights.min()):.3g} came, expected at least 0")
    check_budget(k, weights.shape[1] * most)
    quotients = weights[:, None] / torch.arange(1, most + 1, device=weights.device)[:, None]  # b most p
    won = highest(quotients.flatten(1), k) % weights.shape[1]
    return torch.zeros_like(weights, dtype=torch.long).scatter_add(1, won, torch.ones_like(won))


def within(scores: Float[Tensor, "b n"], budgets: Int[Tensor, "b p"], k: int) -> Int[Tensor, "b k"]:
    """The indices of the highest scores of each picture, as many as its budget, ascending; k in all.

    >>> within(torch.tensor([[0.1, 0.9, 0.8, 0.7, 0.1, 0.2]]), torch.tensor([[1, 2]]), k=3).tolist()
    [[1, 3, 5]]

    Of equal scores the lower index counts.
    """
    each = scores.unflatten(1, (budgets.shape[1], -1))
    rank = each.argsort(dim=-1, descending=True, stable=True).argsort(-1)
    return highest((rank < budgets[..., None]).flatten(1).float(), k)


def squares(n: int, crops: tuple[int, int]) -> int:
    """How many of n tokens each picture has, a thumbnail and then rows and columns of crops, all as large squares.

    >>> squares(320, (2, 2))
    64

    Raises `ValueError` for a number of tokens that cannot be shared out so.
    """
    pictures = 1 + crops[0] * crops[1]
    if min(crops) < 0 or n % pictures or math.isqrt(n // pictures) ** 2 * pictures != n:
        raise ValueError(f"crops={crops} came for {n} tokens, expected those of a thumbnail and its crops, all squares")
    return n // pictures


def areas(m: int, crops: tuple[int, int], device: torch.device | str = "cpu") -> Int[Tensor, " m"]:
    """The crop in whose area each token of a square thumbnail has its middle, numbered as one reads.

    >>> areas(9, (1, 2)).view(3, 3).tolist()
    [[0, 1, 1], [0, 1, 1], [0, 1, 1]]
    """
    side, (rows, columns) = math.isqrt(m), crops
    middle = 2 * torch.arange(side, device=device) + 1
    return (middle * rows // (2 * side) * columns)[:, None].add(middle * columns // (2 * side)).flatten()
