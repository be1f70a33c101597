"""Solutions to the exercises of notebooks/06_reduce/22_aim.ipynb."""

import torch

from minitok.reduce import Reduction


def my_aim(x, k, *, payments, temperature=0.1, steps=5):
    """Exercise 1: the recipe."""
    b, n, _ = x.shape
    if not 1 <= k <= n:
        raise ValueError(f"k={k} came, expected a whole number from 1 to the {n} tokens of x")
    flow = payments.float()
    flow = (flow / flow.amax(-1, keepdim=True).clamp(min=1e-30)) ** (1 / temperature)
    flow = flow / flow.sum(-1, keepdim=True).clamp(min=1e-30)
    p = torch.full_like(flow[:, :, :1], 1 / flow.shape[-1])
    for _ in range(steps):
        p = p @ flow
    importance = p[:, :, 0, :n].square().mean(1).sqrt()
    order = importance.argsort(dim=-1, descending=True, stable=True)[:, :k]
    return Reduction.keep(order.sort(-1).values, n)


def pulled(payments, steps):
    """Exercise 2: all begins at the last word."""
    p = torch.zeros_like(payments[:, :, :1])
    p[..., -1] = 1
    for _ in range(steps):
        p = p @ payments
    return p[:, :, 0].square().mean(1).sqrt()
