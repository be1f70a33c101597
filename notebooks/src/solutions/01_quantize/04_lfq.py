"""Solutions to the exercises of notebooks/01_quantize/04_lfq.ipynb; running this file checks them."""

import torch

from minitok.quantize.lfq import code_probabilities, mean_code_probabilities


def reverse_bits(codes, d):
    """Exercise 1: bit i moves to place d - 1 - i."""
    return sum((codes >> i & 1) << d - 1 - i for i in range(d))


def grouped(p, g):
    """Exercise 2: each group of bits has a mean distribution of its own; their entropies add up."""
    means = [code_probabilities(group).mean(0) for group in p.split(g, dim=1)]
    return float(sum(torch.special.entr(mean).sum() for mean in means))


if __name__ == "__main__":
    assert reverse_bits(torch.tensor([1, 6, 8, 11]), 4).tolist() == [8, 6, 1, 13]
    codes = torch.arange(32)
    assert torch.equal(reverse_bits(reverse_bits(codes, 5), 5), codes)
    p = torch.sigmoid(3 * torch.randn(20, 6, generator=torch.Generator().manual_seed(0)))
    exact = float(torch.special.entr(mean_code_probabilities(p)).sum())
    assert abs(grouped(p, 6) - exact) < 1e-3
    assert grouped(p, 1) > grouped(p, 2) > grouped(p, 3) > exact
