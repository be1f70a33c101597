"""Solutions to the exercises of notebooks/01_quantize/01_vq.ipynb; running this file checks them."""

import torch

from minitok.quantize.vq import nearest


def entropy(codes, K):
    """Exercise 1: the mean of log2(1/p) under the codes' own frequencies."""
    p = codes.flatten().bincount(minlength=K) / codes.numel()
    p = p[p > 0]
    return float(-(p * p.log2()).sum())


def moving_average(z, codes, N, m, gamma=0.99):
    """Exercise 2: counts and sums by a one-hot product, each mixed into its running value."""
    chosen = torch.nn.functional.one_hot(codes, len(N)).float()
    N = gamma * N + (1 - gamma) * chosen.sum(0)
    m = gamma * m + (1 - gamma) * chosen.T @ z
    return N, m, m / N[:, None]


def revive(z, codebook):
    """Exercise 3: the codes that appear in no choice move onto random vectors."""
    dead = torch.ones(len(codebook), dtype=torch.bool)
    dead[nearest(z[None], codebook).unique()] = False
    codebook[dead] = z[torch.randperm(len(z))[: int(dead.sum())]]
    return codebook


if __name__ == "__main__":
    skewed = torch.tensor([0, 0, 0, 0, 1, 1, 2, 3])
    assert abs(entropy(skewed, 8) - 1.75) < 1e-4
    z, codes = torch.tensor([[2.0], [4.0], [9.0]]), torch.tensor([0, 0, 1])
    N, m, e = moving_average(z, codes, torch.ones(3), torch.ones(3, 1), gamma=0.75)
    assert N.tolist() == [1.25, 1.0, 0.75]
    assert m.flatten().tolist() == [2.25, 3.0, 0.75]
    assert torch.allclose(e, m / N[:, None])
    torch.manual_seed(0)
    z, codebook = torch.rand(500, 2), torch.randn(64, 2) * 3
    before = len(nearest(z[None], codebook).unique())
    assert len(nearest(z[None], revive(z, codebook)).unique()) > max(before, 57)
