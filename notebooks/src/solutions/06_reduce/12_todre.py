"""Solutions to the exercises of notebooks/06_reduce/12_todre.ipynb."""

import torch
import torch.nn.functional as F

from minitok.reduce import Reduction


def my_todre(x, k, *, cls_attention=None, seed=0):
    """Exercise 1: the recipe, all rows at once."""
    b, n, _ = x.shape
    if not 1 <= k <= n:
        raise ValueError(f"k={k} came, expected a whole number from 1 to the {n} tokens of x")
    if cls_attention is None:
        pick = torch.randint(n, (b,), generator=torch.Generator().manual_seed(seed))
    else:
        pick = cls_attention.float().sum(1).argmax(1)
    unit, rows, chosen = F.normalize(x.float(), dim=-1), torch.arange(b), []
    total = torch.zeros(b, n)
    for _ in range(k):
        chosen.append(pick)
        total = total + (unit * unit[rows, pick][:, None]).sum(-1)
        total[rows, pick] = torch.inf
        pick = total.argmin(1)
    return Reduction.keep(torch.stack(chosen, 1).sort(1).values, n)


def k_center(x, pivot, k):
    """Exercise 2: the largest cosine with what is chosen, as small as can be."""
    x = F.normalize(x, dim=-1)
    chosen, nearest = [pivot], torch.full((len(x),), -torch.inf)
    for _ in range(k - 1):
        nearest = torch.maximum(nearest, x @ x[chosen[-1]])
        nearest[chosen[-1]] = torch.inf
        chosen.append(int(nearest.argmin()))
    return chosen
