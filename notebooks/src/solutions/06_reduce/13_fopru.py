"""Solutions to the exercises of notebooks/06_reduce/13_fopru.ipynb; running this file checks them."""

import torch

from minitok.reduce.fopru import rows, significance


def columns(scores, k, grid):
    """Exercise 1: the rows of the turned grid, with their numbers turned back."""
    height, width = grid
    turned = rows(scores.unflatten(1, grid).mT.flatten(1), k, (width, height))
    return (turned % height * width + turned // height).sort(-1).values


def either(attention):
    """Exercise 2: of the two means, for each picture the one of larger variance."""
    received, paid = significance(attention), attention.mean((1, 3))
    varies = received.var(-1, keepdim=True) > paid.var(-1, keepdim=True)
    return torch.where(varies, received, paid)


def rows_needed(scores, grid, share):
    """Exercise 3: of the rows' shares, from the largest down, those before the share is reached, and one more."""
    sums = scores.unflatten(1, grid).sum(-1).sort(-1, descending=True).values
    held = sums.cumsum(-1) / sums.sum(-1, keepdim=True)
    # A share that is reached up to rounding is reached.
    return (held < share - 1e-6).sum(-1) + 1


if __name__ == "__main__":
    scores = torch.tensor([[0.1, 0.9, 0.2, 0.3, 0.0, 0.8, 0.1, 0.0, 0.3]])
    assert columns(scores, 3, (3, 3)).tolist() == [[2, 5, 8]]
    assert columns(scores, 6, (3, 3)).tolist() == [[1, 2, 4, 5, 7, 8]]
    assert columns(scores[:, :6], 2, (2, 3)).tolist() == [[2, 5]]
    payers = torch.tensor([[[[0.5, 0.5], [0.0, 0.0]]]])
    assert either(torch.cat([payers, payers.mT])).tolist() == [[0.5, 0.0], [0.5, 0.0]]
    scores = torch.tensor([[0.1, 0.1, 0.4, 0.2, 0.1, 0.1], [0.0, 0.0, 0.5, 0.5, 0.0, 0.0]])
    assert [rows_needed(scores, (3, 2), share).tolist() for share in (0.5, 0.7, 0.9)] == [[1, 1], [2, 1], [3, 1]]
