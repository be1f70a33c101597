"""Solutions to the exercises of notebooks/05_speculate/05_gsd.ipynb."""

import torch

from minitok import house
from minitok.speculate import happens, pick
from minitok.speculate.gsd import acceptances


def my_accept(p, q, drafted, generator=None, *, codebook, window=7, gap=0.15, radius=0.5):
    """Exercise 1: the recipe's steps 3 to 6."""
    for i, x in enumerate(drafted.tolist()):
        wants, gave = p[i].double(), q[i].double()
        ascending = wants.argsort(stable=True).tolist()
        r = ascending.index(x)
        company = ascending[r - window : r + window] if r >= window else []
        group = {x}
        for y in company:
            near = float((codebook[x] - codebook[y]).square().sum()) < radius
            if near and abs(float(wants[y] - wants[x])) < gap:
                group.add(y)
        members = sorted(group)
        if not happens(min(1.0, float(wants[members].sum() / gave[members].sum())), generator):
            rest = (wants - gave).clamp(min=0)
            return i, pick(rest / rest.sum(), generator)
    return len(drafted), pick(p[-1], generator)


def kinder(p, q):
    """Exercise 2: no guess is judged more strictly than by the exact rule."""
    every = torch.arange(4096)
    vectors = house.load("tokenizer").quantizer.decode(every[None, :, None])[0]
    return torch.maximum(acceptances(p, q, every, vectors, window=30), (p / q).clamp(max=1))
