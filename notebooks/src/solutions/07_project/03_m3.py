"""Solutions to the exercises of notebooks/07_project/03_m3.ipynb."""

import torch


def my_pooled(x, k):
    """Exercise 1: a grid of squares, and the mean over the places inside."""
    n = x.shape[1]
    side = int(n**0.5)
    known = tuple((side // span) ** 2 for span in range(1, side + 1) if side % span == 0)
    if side**2 != n or k not in known:
        raise ValueError(f"k={k} of {n} tokens came, expected one of {known} of {side**2}")
    few = int(k**0.5)
    return x.unflatten(1, (few, side // few, few, side // few)).mean((2, 4)).flatten(1, 2)


def choose(shares, budgets):
    """Exercise 2: 16 tokens where M3 is sure of what it says through them, else 64."""
    coarse, fine = budgets.index(16), budgets.index(64)
    sure = shares[coarse].amax(-1) > 0.8
    return torch.where(sure, coarse, fine)
