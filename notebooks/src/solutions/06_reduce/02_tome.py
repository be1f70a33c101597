"""Solutions to the exercises of notebooks/06_reduce/02_tome.ipynb; running this file checks them."""

import itertools

import torch

from minitok.reduce import Reduction
from minitok.reduce.tome import tome


def first_of_each(x, k, *, keys, size):
    """Exercise 1: the same groups, of which the first tokens stay."""
    return Reduction.keep(tome(x, k, keys=keys, size=size).order, x.shape[1])


def falling(n, k, layers):
    """Exercise 2: what is left after layer i is n less the sum of weights L - 1, L - 2, ..., 0, scaled to n - k."""
    total = layers * (layers - 1) / 2
    gone = itertools.accumulate(range(layers - 1, -1, -1))
    return {i: n - round((n - k) * part / total) for i, part in enumerate(gone)}


def unmerge(reductions, y):
    """Exercise 3: the last reduction is undone first."""
    for reduction in reversed(reductions):
        y = reduction.restore(y)
    return y


if __name__ == "__main__":
    x, keys = torch.randn(1, 256, 6), torch.randn(1, 3, 256, 4)
    kept = first_of_each(x, 8, keys=keys, size=torch.ones(1, 256))
    assert kept.shape == (1, 8, 256)
    assert torch.equal(kept.apply(x), x[:, kept.order[0]])
    left = [256, *falling(256, 16, 8).values()]
    steps = [before - after for before, after in itertools.pairwise(left)]
    assert left[-1] == 16
    assert steps[-1] == 0
    assert all(before > after for before, after in itertools.pairwise(steps))
    tokens, reductions = x, []
    for k in (128, 40, 9):
        reductions.append(tome(tokens, k))
        tokens = reductions[-1].apply(tokens)
    back = unmerge(reductions, tokens)
    assert back.shape == x.shape
    assert len(back[0].unique(dim=0)) == 9
