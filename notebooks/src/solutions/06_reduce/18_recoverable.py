"""Solutions to the exercises of notebooks/06_reduce/18_recoverable.ipynb."""

import torch
import torch.nn.functional as F

from minitok.reduce import Reduction
from minitok.reduce.recoverable import lof, outliers


def my_recoverable(x, k, *, cls_attention, keys, text, asked=None, shared=None):
    """Exercise 1: the recipe, one row after another."""
    b, n, _ = x.shape
    if not 1 <= k <= n:
        raise ValueError(f"k={k} came, expected a whole number from 1 to the {n} tokens of x")
    if k == n:
        return Reduction.keep(torch.arange(n).expand(b, -1), n)
    words = F.normalize(text.float(), dim=-1)
    words = words.sum(1) if asked is None else (words * asked[..., None]).sum(1)
    similar = F.cosine_similarity((x if shared is None else shared).float(), words[:, None], dim=-1)
    attention, keys = cls_attention.float().mean(1), F.normalize(keys.float().transpose(1, 2).flatten(2), dim=-1)
    return Reduction.blend(torch.stack([row(*of, k) for of in zip(attention, similar, keys, strict=True)]))


def row(a, s, keys, k):
    """The k x n weights of one row."""
    n, low = len(a), -torch.inf
    order = a.argsort(descending=True, stable=True)
    v = int(outliers(a[None], 20))
    kept = torch.zeros(n, dtype=torch.bool).scatter(0, order[:v], True)
    t = (n - v) * int(outliers(torch.where(kept, s.min(), s)[None], 20)) // n
    asked_back = s.masked_fill(kept, low).argsort(descending=True, stable=True)[:t]
    m = int(outliers(a[None], 10, ~kept.scatter(0, asked_back, True)[None]))
    counts = torch.tensor([v, t, m]) if v + t + m else torch.tensor([1, 0, 0])
    first, second, _ = ((k - 1) * counts.cumsum(0) / counts.sum()).round().int().tolist()
    kept = torch.zeros(n, dtype=torch.bool).scatter(0, order[:first], True)
    kept[s.masked_fill(kept, low).argsort(descending=True, stable=True)[: second - first]] = True
    centres = a.masked_fill(kept, low).argsort(descending=True, stable=True)[: k - 1 - second].tolist()
    a, rows = a.clamp(min=1e-30), []
    for i in sorted([*kept.nonzero()[:, 0].tolist(), *centres]):
        weights = torch.zeros(n)
        if i in centres:
            near = (keys @ keys[i] + 50 / 768**0.5 * s).masked_fill(kept, low)
            near[i] = low
            partners = near.argsort(descending=True, stable=True)[: min(32, int(near.isfinite().sum()))]
            weights[partners] = a[partners]
        weights[i] = 1
        rows.append(weights)
    rest = a.masked_fill(kept, 0)
    rest[centres] = 0
    return torch.stack([*rows, rest])


def upwards(scores, neighbours):
    """Exercise 2: a large factor and a place above the median."""
    return ((lof(scores, neighbours) > 1.5) & (scores > scores.median(-1, keepdim=True).values)).sum(-1)
