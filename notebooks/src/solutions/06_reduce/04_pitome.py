"""Solutions to the exercises of notebooks/06_reduce/04_pitome.ipynb; running this file checks them."""

import math

import torch
import torch.nn.functional as F

from minitok.reduce import Reduction
from minitok.reduce.pitome import energy, pitome
from minitok.reduce.tome import tome


def shuffled(vectors, k):
    """Exercise 1: place i of the permuted tokens holds token order[i], and so does its cluster."""
    order = torch.rand(vectors.shape[:2]).argsort(-1)
    permuted = vectors.gather(1, order[..., None].expand_as(vectors))
    assignment = tome(permuted, k).assignment
    return Reduction.merge(torch.empty_like(order).scatter(1, order, assignment), k)


def bell(metric, margin):
    """Exercise 2: a normal density of the distance 1 - cosine."""
    unit, sigma = F.normalize(metric, dim=-1), 1 - margin
    away = (1 - unit @ unit.mT) / sigma
    return (-(away**2) / 2).exp().mean(-1) / (sigma * math.sqrt(2 * math.pi))


def spectrum(W):
    scale = W.sum(-1).clamp(min=1e-9).rsqrt()
    return torch.linalg.eigvalsh(torch.eye(W.shape[-1]) - scale[:, :, None] * W * scale[:, None])


def small_spectrum(W, reduction):
    """Exercise 3: the sums over clusters; all that varies inside a cluster has the eigenvalue 1."""
    C = reduction.shares()
    b, k, n = C.shape
    return torch.cat([spectrum(C @ W @ C.mT), torch.ones(b, n - k)], dim=1).sort(-1).values


if __name__ == "__main__":
    torch.manual_seed(0)
    vectors = torch.randn(3, 40, 4)
    unit = F.normalize(vectors, dim=-1)
    W = (1 - unit @ unit.mT).clamp(min=0)
    M = shuffled(vectors, 20)
    assert not torch.equal(M.assignment, tome(vectors, 20).assignment)
    inside = [(unit * F.normalize(R.restore(R.apply(unit)), dim=-1)).sum(-1).mean() for R in (M, tome(vectors, 20))]
    assert abs(inside[0] - inside[1]) < 0.05
    assert abs(bell(torch.tensor([[[2.0, 0.0]]]), 0.5).item() - 0.7979) < 1e-3
    assert abs(bell(torch.tensor([[[1.0, 0.0], [0.0, 5.0]]]), 0.5)[0, 0].item() - 0.4529) < 1e-3
    assert bell(vectors, 0.5).shape == energy(vectors).shape
    M = pitome(vectors, 11)
    P = M.restore(M.matrix())
    torch.testing.assert_close(small_spectrum(W, M), spectrum(P @ W @ P.mT), atol=1e-4, rtol=0)
