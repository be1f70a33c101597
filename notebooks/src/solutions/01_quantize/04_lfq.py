"""Solutions to the exercises of notebooks/01_quantize/04_lfq.ipynb."""

import torch

from minitok.quantize.lfq import code_probabilities


def my_probabilities(p):
    """Exercise 1: for each code the product of its bits' coins, the first channel the lowest bit."""
    d = p.shape[1]
    bits = torch.arange(2**d)[:, None] >> torch.arange(d) & 1
    return torch.where(bits == 1, p[:, None], 1 - p[:, None]).prod(-1)


def grouped(p, g):
    """Exercise 2: each group of bits has a mean distribution of its own; their entropies add up."""
    means = [code_probabilities(group).mean(0) for group in p.split(g, dim=1)]
    return float(sum(torch.special.entr(mean).sum() for mean in means))


def reverse_bits(codes, d):
    """Exercise 3: bit i moves to place d - 1 - i."""
    return sum((codes >> i & 1) << d - 1 - i for i in range(d))
