"""Solutions to the exercises of notebooks/06_reduce/20_vflowopt.ipynb."""

import math

import torch

from minitok.reduce import Reduction


def my_vflowopt(x, k, *, scores, grid=None, cell=4.0):
    """Exercise 1: the recipe, row by row."""
    b, n, _ = x.shape
    if not 1 <= k <= n:
        raise ValueError(f"k={k} came, expected a whole number from 1 to the {n} tokens of x")
    height, width = grid or (math.isqrt(n), math.isqrt(n))
    cells = [(int(i / cell), int(j / cell)) for i in range(height) for j in range(width)]
    matrix = torch.zeros(b, k, n)
    for row, out in zip(scores.float(), matrix, strict=True):
        order = row.argsort(descending=True, stable=True).tolist()
        weights = row.maximum(1e-6 * row.abs().max().clamp(min=1e-30))
        q, groups = k, {}
        if len(set(cells)) <= k:
            q = next(q for q in range(n + 1) if q + len({cells[j] for j in order[q:]}) == k)
            for j in order[q:]:
                groups.setdefault(cells[j], []).append(j)
        members = [[j] for j in order[:q]] + list(groups.values())
        members.sort(key=lambda some: max((float(weights[j]), -j) for j in some)[1], reverse=True)
        for place, some in enumerate(members):
            out[place, some] = weights[some]
    return Reduction.blend(matrix)


def last_share(r_v, r_1, average):
    """Exercise 2: what the first five layers leave of six times the average."""
    left = 6 * average - 3 * r_v - 2 * r_v * r_1
    return min(1.0, max(0.0, left / (r_v * r_1)))
