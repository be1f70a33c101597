"""Solutions to the exercises of notebooks/04_generate/01_raster.ipynb."""

import torch

from minitok.nn import Cache


def my_generate(model, labels, guidance, temperature, generator):
    """Exercise 1: two rows a picture, one with the class and one with any; a call a code."""
    asked = torch.cat([labels, torch.full_like(labels, model.classes)])
    drawn, cache = labels.new_zeros(len(labels), 0), Cache()
    for _ in range(model.schedule.n):
        c, u = model(drawn[:, -1:].repeat(2, 1), asked, cache)[:, -1].chunk(2)
        p = ((u + guidance * (c - u)) / temperature).softmax(-1)
        drawn = torch.cat([drawn, torch.multinomial(p, 1, generator=generator)], dim=1)
    return drawn


def nucleus(logits, p):
    """Exercise 2: a code goes if those likelier than it reach p without it."""
    ordered, order = logits.softmax(-1).sort(descending=True)
    before = ordered.cumsum(-1) - ordered
    out = torch.zeros_like(logits, dtype=torch.bool).scatter(-1, order, before >= p)
    return logits.masked_fill(out, -torch.inf)
