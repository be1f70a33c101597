"""Solutions to the exercises of notebooks/06_reduce/08_centerclip.ipynb."""

import torch

from minitok.reduce import Reduction


def of_one(x, k, rounds):
    """The medoids of one set of tokens."""
    distance = (x[:, None] - x[None]).norm(dim=-1)
    chosen = [int(x.norm(dim=-1).argmax())]
    while len(chosen) < k:
        nearest = distance[:, chosen].amin(1)
        nearest[chosen] = -1
        chosen.append(int(nearest.argmax()))
    for _ in range(rounds):
        home = distance[:, chosen].argmin(1)
        home[chosen] = torch.arange(k)
        clusters = [(home == j).nonzero()[:, 0] for j in range(k)]
        new = [int(some[distance[some][:, some].sum(1).argmin()]) for some in clusters]
        if new == chosen:
            break
        chosen = new
    return sorted(chosen)


def my_centerclip(x, k, *, frames=1, segments=1, rounds=60):
    """Exercise 1: the recipe, row by row and segment by segment."""
    b, n, _ = x.shape
    if not 1 <= k <= n:
        raise ValueError(f"k={k} came, expected a whole number from 1 to the {n} tokens of x")
    runs = [frames // segments + (i < frames % segments) for i in range(segments)]
    counts = [k // segments + (i < k % segments) for i in range(segments)]
    kept = [[] for _ in range(b)]
    start = 0
    for run, count in zip(runs, counts, strict=True):
        end = start + run * n // frames
        for row, places in zip(x.float(), kept, strict=True):
            places += [start + i for i in of_one(row[start:end], count, rounds)]
        start = end
    return Reduction.keep(torch.tensor(kept, dtype=torch.long).view(b, k), n)


def central(distance, k):
    """Exercise 2: from the middle outwards."""
    chosen = [int(distance.sum(1).argmin())]
    while len(chosen) < k:
        nearest = distance[:, chosen].amin(1)
        nearest[chosen] = -1
        chosen.append(int(nearest.argmax()))
    return chosen
