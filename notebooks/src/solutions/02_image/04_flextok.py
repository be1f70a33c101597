"""Solutions to the exercises of notebooks/02_image/04_flextok.ipynb."""

import torch


def flow_error(model, maps, kept, noise, s):
    """Exercise 1: registers, quantized, masked after k; the flow on the mixed maps; the velocity's squared error."""
    values = model.quantizer(model.registers(maps)).values
    keep = torch.arange(values.shape[1]) < kept[:, None]
    told = torch.where(keep[..., None], model.enter(values), model.mask) + model.place
    weight = s[:, None, None, None]
    velocity = model.flow((1 - weight) * maps + weight * noise, s, told)
    return (velocity - (noise - maps)).square().mean((1, 2, 3))


def midpoint(velocity, x, steps):
    """Exercise 2: half a step to see where the flow leads there, then the whole step by that."""
    for step in range(steps, 0, -1):
        s = step / steps
        half = x - velocity(x, s) / (2 * steps)
        x = x - velocity(half, s - 1 / (2 * steps)) / steps
    return x
