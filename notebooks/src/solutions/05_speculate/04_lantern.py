"""Solutions to the exercises of notebooks/05_speculate/04_lantern.ipynb."""

import torch

from minitok.speculate import happens, pick


def my_accept(p, q, drafted, generator=None, *, neighbours, delta=0.1):
    """Exercise 1: the recipe's steps 3 to 5."""
    for i, x in enumerate(drafted.tolist()):
        row, near = p[i].double(), neighbours[x]
        sums = row[near].cumsum(0)
        loan = float(sums[sums <= delta].max()) if (sums <= delta).any() else 0.0
        if not happens(min(1.0, (float(row[x]) + loan) / float(q[i, x])), generator):
            there = q[i].double().index_fill(0, near, 0) if loan > 0 else q[i].double()
            rest = (row - there).clamp(min=0)
            return i, pick(rest / rest.sum(), generator)
    return len(drafted), pick(p[-1], generator)


def in_proportion(p, near, delta):
    """Exercise 2: the sums that are allowed differ from code to code."""
    sums = p[near].cumsum(-1)
    return torch.where(sums <= (delta - 1) * p[:, None], sums, 0).amax(-1)
