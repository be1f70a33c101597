"""Solutions to the exercises of notebooks/01_quantize/02_rvq.ipynb."""

import torch
import torch.nn.functional as F

from minitok.quantize import nearest


def my_cascade(z, codebooks):
    """Exercise 1: each stage is given what the ones before it left over."""
    residual, codes, chosen, given = z.float(), [], [], []
    for codebook in codebooks:
        given.append(residual)
        codes.append(nearest(residual, codebook))
        chosen.append(codebook[codes[-1]])
        residual = residual - chosen[-1].detach()
    return torch.stack(codes, -1), torch.stack(chosen), torch.stack(given)


def commitment(z, codebooks):
    """Exercise 2: the residual loses the code vector as a constant, so it keeps the gradient of z."""
    residual, loss = z, 0
    for codebook in codebooks:
        chosen = codebook[nearest(residual, codebook)].detach()
        loss = loss + F.mse_loss(residual, chosen)
        residual = residual - chosen
    return loss
