"""Solutions to the exercises of notebooks/06_reduce/04_pitome.ipynb."""

import torch
import torch.nn.functional as F

from minitok.reduce import Reduction, tome


def step(metric, r, margin, protect):
    """Which of the n - r outputs each token of one row goes to."""
    n, unit = len(metric), F.normalize(metric, dim=-1)
    cosine = unit @ unit.T
    rank = F.elu(cosine - margin).mean(-1).argsort(descending=True, stable=True)
    crowd = rank[: 2 * r] if protect else rank
    in_a, in_b = crowd[::2], crowd[1::2]
    nearness, best = cosine[in_a][:, in_b].max(-1)
    go = nearness.argsort(descending=True, stable=True)[:r]  # under protection: all of A
    target = torch.arange(n).scatter(0, in_a[go], in_b[best[go]])
    firsts = {}
    return torch.tensor([firsts.setdefault(place, len(firsts)) for place in target.tolist()])


def my_pitome(x, k, *, keys=None, size=None, margin=0.5, protect=True):
    """Exercise 1: the recipe, row by row."""
    b, n, _ = x.shape
    if not 1 <= k <= n:
        raise ValueError(f"k={k} came, expected a whole number from 1 to the {n} tokens of x")
    if not -1 <= margin <= 1:
        raise ValueError(f"margin={margin} came, expected a cosine from -1 to 1")
    size = torch.ones(b, n) if size is None else size
    rows = []
    for metric, weights in zip((x if keys is None else keys.mean(1)).float(), size.float(), strict=True):
        assignment = torch.arange(n)
        while (left := len(metric)) > k:
            r = min(left - k, left // 2)
            outputs = step(metric, r, margin, protect)
            merged = Reduction.merge(outputs[None], left - r, weights[None])
            metric, weights = merged.apply(metric[None])[0], merged.sizes(weights[None])[0]
            assignment = outputs[assignment]
        rows.append(assignment)
    return Reduction.merge(torch.stack(rows), k, size)


def shuffled(vectors, k):
    """Exercise 2: place i of the permuted tokens holds token order[i], and so does its cluster."""
    order = torch.rand(vectors.shape[:2]).argsort(-1)
    permuted = vectors.gather(1, order[..., None].expand_as(vectors))
    assignment = tome(permuted, k).assignment
    return Reduction.merge(torch.empty_like(order).scatter(1, order, assignment), k)
