"""Solutions to the exercises of notebooks/06_reduce/02_tome.ipynb."""

import torch
import torch.nn.functional as F

from minitok.reduce import Reduction, tome


def groups_of(metric, r):
    """One step on one row: which of the outputs each token goes to."""
    metric = F.normalize(metric, dim=-1)
    cosine, partner = (metric[0::2] @ metric[1::2].T).max(-1)
    target = torch.arange(len(metric))
    for a in cosine.argsort(descending=True, stable=True)[:r].tolist():
        target[2 * a] = 2 * int(partner[a]) + 1
    firsts = {}
    return torch.tensor([firsts.setdefault(group, len(firsts)) for group in target.tolist()])


def my_tome(x, k, *, keys=None, size=None):
    """Exercise 1: the recipe, row by row."""
    b, n, _ = x.shape
    if not 1 <= k <= n:
        raise ValueError(f"k={k} came, expected a whole number from 1 to the {n} tokens of x")
    size = torch.ones(b, n) if size is None else size
    rows = []
    for metric, weights in zip((x if keys is None else keys.mean(1)).float(), size.float(), strict=True):
        assignment = torch.arange(n)
        while (left := len(metric)) > k:
            r = min(left - k, left // 2)
            step = groups_of(metric, r)
            merged = Reduction.merge(step[None], left - r, weights[None])
            metric, weights = merged.apply(metric[None])[0], merged.sizes(weights[None])[0]
            assignment = step[assignment]
        rows.append(assignment)
    return Reduction.merge(torch.stack(rows), k, size)


def first_of_each(x, k, *, keys, size):
    """Exercise 2: the same groups, of which the first tokens stay."""
    return Reduction.keep(tome(x, k, keys=keys, size=size).order, x.shape[1])
