"""Solutions to the exercises of notebooks/06_reduce/17_token_correlation.ipynb."""

import torch

from minitok.reduce.token_correlation import densities, joined, outliers


def my_compressor(x, k, *, keys, cls_first, cls_attention, pictures=5, similar=0.99, seed=0):
    """Exercise 1: the recipe, row by row; the library merges."""
    b, n, _ = x.shape
    if not 1 <= k <= n:
        raise ValueError(f"k={k} came, expected a whole number from 1 to the {n} tokens of x")
    m, rows = n // pictures, []
    lots = -(-torch.rand(n, generator=torch.Generator().manual_seed(seed)).log()).log()
    for early, late, density in zip(
        cls_first.float().mean(1), cls_attention.float().mean(1), densities(keys, pictures, similar), strict=True
    ):
        budget, kept = [0] * pictures, []
        for _ in range(k):
            free = [j for j in range(pictures) if budget[j] < m]
            budget[max(free, key=lambda j: (float(density[j]) / (budget[j] + 1), -budget[j], -j))] += 1
        for j, number in enumerate(budget):
            part = slice(m * j, m * j + m)
            first = torch.where(outliers(late[part]), 1e3 + late[part], early[part].log() + lots[part])
            kept += (m * j + first.argsort(descending=True, stable=True)[:number]).tolist()
        rows.append(sorted(kept))
    return joined(keys, torch.tensor(rows), pictures)


def best(late, budgets, k):
    """Exercise 2: a ranking of each crop, cut at its budget."""
    rank = late.unflatten(1, (4, -1)).argsort(dim=-1, descending=True, stable=True).argsort(-1)
    kept = (rank < budgets[..., None]).flatten(1)
    return torch.stack([row.nonzero().flatten() for row in kept])
