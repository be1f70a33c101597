"""Solutions to the exercises of notebooks/06_reduce/14_hired.ipynb."""

import torch

from minitok.reduce import Reduction


def my_hired(x, k, *, cls_first, cls_attention, crops=(2, 2), alpha=0.5):
    """Exercise 1: the recipe, row by row."""
    (rows, columns), n = crops, x.shape[1]
    p = rows * columns
    m = n // (p + 1)
    side = round(m**0.5)
    if not 1 <= k <= n:
        raise ValueError(f"k={k} came, expected a whole number from 1 to the {n} tokens of x")
    kept, own = [], max(min(int(alpha * k), m), k - p * m)
    for first, last in zip(cls_first.float().sum(1), cls_attention.float().sum(1), strict=True):
        counts, given = [0] * p, [0] * p
        for i in first[:m].argsort(descending=True, stable=True)[: int((1 - alpha) * m)].tolist():
            row, column = divmod(i, side)
            counts[(2 * row + 1) * rows // (2 * side) * columns + (2 * column + 1) * columns // (2 * side)] += 1
        for _ in range(k - own):
            free = [j for j in range(p) if given[j] < m]
            given[max(free, key=lambda j: (counts[j] / (given[j] + 1), -given[j], -j))] += 1
        parts = zip([own, *given], last.split(m), strict=True)
        best = [m * j + part.argsort(descending=True, stable=True)[:size] for j, (size, part) in enumerate(parts)]
        kept.append(torch.cat(best).sort().values)
    return Reduction.keep(torch.stack(kept), n)


def bands(first, alpha=0.5):
    """Exercise 2: marks as zeros and ones, in four runs."""
    chosen = first.argsort(dim=1, descending=True, stable=True)[:, : int((1 - alpha) * first.shape[1])]
    return torch.zeros_like(first).scatter(1, chosen, 1.0).unflatten(1, (4, -1)).sum(-1).long()
