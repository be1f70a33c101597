"""Solutions to the exercises of notebooks/02_image/04_flextok.ipynb; running this file checks them."""

from math import exp

import torch
import torch.nn.functional as F

from minitok import house
from minitok.data import photographs
from minitok.image import Tokens
from minitok.image.flextok import guide
from minitok.metrics import psnr


def midpoint(velocity, x, steps):
    """Exercise 1: half a step to see where the flow leads there, then the whole step by that."""
    for step in range(steps, 0, -1):
        s = step / steps
        half = x - velocity(x, s) / (2 * steps)
        x = x - velocity(half, s - 1 / (2 * steps)) / steps
    return x


def guided_velocity(velocity, null, scale):
    """Exercise 2: cut, project, add."""
    difference = (velocity - null).flatten(1)
    short = difference * (2.5 / difference.norm(dim=1, keepdim=True)).clamp(max=1)
    along = F.normalize(velocity.flatten(1), dim=1)
    across = short - (short * along).sum(1, keepdim=True) * along
    return velocity + (scale - 1) * across.view_as(velocity)


def mean_of_draws(model, codes, k, n):
    """Exercise 3: another seed for each draw (in the lesson `model` and `codes` are globals)."""
    tokens = Tokens(codes, (64,))[:k]
    return torch.stack([model.decode(tokens, steps=5, seed=seed) for seed in range(n)]).mean(0)


if __name__ == "__main__":
    asked = []
    end = midpoint(lambda x, s: asked.append(s) or x, 1.0, 8)
    assert len(asked) == 16
    assert abs(asked[1] - 15 / 16) < 1e-9
    assert abs(end - exp(-1)) < 0.002
    torch.manual_seed(0)
    for size in (0.1, 1.0):
        velocity, difference = torch.randn(2, 3, 4, 8, 8)
        guided = guided_velocity(velocity, velocity - size * difference, 3.0)
        assert float(((guided - velocity) * velocity).sum((1, 2, 3)).abs().max()) < 1e-2
        assert torch.allclose(guided, guide(velocity, velocity - size * difference, 3.0)[0], atol=1e-4)
    model, images = house.load("flextok"), photographs.crops(4, 64)
    codes = model.encode(images).codes
    one, three = (float(psnr(mean_of_draws(model, codes, 4, n), images).mean()) for n in (1, 3))
    assert three > one + 0.5
