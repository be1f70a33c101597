"""Tokens of several pictures: how a budget is shared among them, and the best tokens of each within its share."""

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
