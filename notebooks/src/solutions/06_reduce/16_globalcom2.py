"""Solutions to the exercises of notebooks/06_reduce/16_globalcom2.ipynb."""

import torch
import torch.nn.functional as F

from minitok.reduce import Reduction


def my_globalcom2(x, k, *, cls_attention, crops=(2, 2), tau=10.0):
    """Exercise 1: the recipe, row by row."""
    (rows, columns), n = crops, x.shape[1]
    m = n // (1 + rows * columns)
    side = round(m**0.5)
    if not 1 <= k <= n:
        raise ValueError(f"k={k} came, expected a whole number from 1 to the {n} tokens of x")
    line = 2 * torch.arange(side) + 1
    area = (line * rows // (2 * side) * columns)[:, None] + line * columns // (2 * side)
    kept = []
    for paid in cls_attention.mean(1):
        looks, each, scores = paid.view(-1, m), paid.new_tensor([k / n]).tolist(), [paid[:m]]
        if rows * columns:
            sums = paid.new_zeros(rows * columns).index_add(0, area.flatten(), looks[0])
            weights = (sums / tau).softmax(0)
            each += (k / n * (1 + weights - weights.mean())).clamp(max=1).tolist()
            size = (rows * side, columns * side)
            large = F.interpolate(looks[0].view(1, 1, side, side), size=size, mode="bilinear")[0, 0]
            parts = large.view(rows, side, columns, side).transpose(1, 2).reshape(-1, m)
            scores += list(F.normalize(looks[1:], dim=1) + F.normalize(parts, dim=1))
        budget = [0] * len(each)
        for _ in range(k):
            free = [j for j in range(len(each)) if budget[j] < m]
            budget[max(free, key=lambda j: (each[j] / (budget[j] + 1), -budget[j], -j))] += 1
        best = [m * j + part.argsort(descending=True, stable=True)[: budget[j]] for j, part in enumerate(scores)]
        kept.append(torch.cat(best).sort().values)
    return Reduction.keep(torch.stack(kept), n)


def linear(thumbnail, share, crops):
    """Exercise 2: sums over areas, divided by all."""
    (rows, columns), side = crops, round(thumbnail.shape[1] ** 0.5)
    areas = thumbnail.view(-1, rows, side // rows, columns, side // columns)
    sums = areas.sum((2, 4)).flatten(1)
    return (share * (1 + sums / sums.sum(1, keepdim=True) - 1 / (rows * columns))).clamp(max=1)
