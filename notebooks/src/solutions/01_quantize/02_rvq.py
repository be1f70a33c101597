"""Solutions to the exercises of notebooks/01_quantize/02_rvq.ipynb; running this file checks them."""

import math

import torch
import torch.nn.functional as F

from minitok.quantize.rvq import cascade
from minitok.quantize.vq import nearest


def stages_for(rate, vectors_a_second, K):
    """Exercise 1: whole stages of log2 K bits within the bits of one vector."""
    return int(rate / vectors_a_second / math.log2(K))


def beam(z, codebooks, width=4):
    """Exercise 2: every kept sum plus every code vector; the nearest `width` are kept."""
    kept = torch.zeros_like(z)[None]
    for codebook in codebooks:
        extended = (kept[:, None] + codebook).flatten(0, 1)
        order = (extended - z).square().sum(1).argsort(stable=True)
        kept = extended[order[:width]]
    return kept[0]


def commitment(z, codebooks):
    """Exercise 3: the residual loses the code vector as a constant, so it keeps the gradient of z."""
    residual, loss = z, 0
    for codebook in codebooks:
        chosen = codebook[nearest(residual, codebook)].detach()
        loss = loss + F.mse_loss(residual, chosen)
        residual = residual - chosen
    return loss


if __name__ == "__main__":
    assert [stages_for(6000, 75, 1024), stages_for(6000, 75, 32), stages_for(6700, 75, 1024)] == [8, 16, 8]
    assert stages_for(6000, 75, 2) == 80
    torch.manual_seed(0)
    codebooks, z = [torch.randn(8, 2), torch.randn(8, 2) / 3], torch.randn(200, 2)
    greedy = cascade(z[None], codebooks)[1].sum(0)[0]
    sums = (codebooks[0][:, None] + codebooks[1]).flatten(0, 1)
    errors = torch.stack([(torch.stack([beam(row, codebooks, w) for row in z]) - z).square().sum(1) for w in (1, 2, 8)])
    assert torch.allclose(errors[0], (greedy - z).square().sum(1), atol=1e-5)
    assert torch.allclose(errors[2], torch.cdist(z, sums).min(1).values ** 2, atol=1e-5)
    assert errors[0].mean() > errors[1].mean() > errors[2].mean()
    z = z[None].requires_grad_()
    (gradient,) = torch.autograd.grad(commitment(z, codebooks), z)
    _, chosen, given = cascade(z.detach(), codebooks)
    assert torch.allclose(gradient, 2 * (given - chosen).sum(0) / z.numel(), atol=1e-6)
