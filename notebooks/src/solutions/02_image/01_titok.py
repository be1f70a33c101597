"""Solutions to the exercises of notebooks/02_image/01_titok.ipynb; running this file checks them."""

import torch
import torch.nn.functional as F

from minitok import house
from minitok.data import photographs


def owners(footprints):
    """Exercise 1: means over patches, then the token with the largest."""
    return F.avg_pool2d(footprints, 8).argmax(0)[0]


def renumber(model, order):
    """Exercise 2: the question and its place in the answer move together."""
    model.encoder.latents.data = model.encoder.latents[order]
    model.decoder.place.data = model.decoder.place[order]


def between(model, a, b, t):
    """Exercise 3: a mixture of values (in the lesson `model` is a global)."""
    first, second = (model.quantizer.decode(tokens.codes) for tokens in (a, b))
    return model.paint((1 - t) * first + t * second)


if __name__ == "__main__":
    made = torch.zeros(64, 1, 64, 64)
    for token in range(64):
        row, column = 8 * (token % 8), 8 * (token // 8)
        made[token, :, row : row + 8, column : column + 8] = 1 + token
    assert torch.equal(owners(made), torch.arange(64).view(8, 8).T)
    model, other, order = house.load("titok"), house.load("titok"), torch.randperm(64)
    images = photographs.crops(2, 64)
    tokens = model.encode(images)
    renumber(other, order)
    assert torch.equal(other.encode(images).codes, tokens.codes[:, order])
    assert torch.allclose(other.decode(other.encode(images)), model.decode(tokens), atol=1e-4)
    a, b = model.encode(images[:1]), model.encode(images[1:])
    assert torch.allclose(between(model, a, b, 0.0).clamp(0, 1), model.decode(a), atol=1e-4)
    assert torch.allclose(between(model, a, b, 1.0).clamp(0, 1), model.decode(b), atol=1e-4)
    assert not torch.allclose(between(model, a, b, 0.5), (between(model, a, b, 0) + between(model, a, b, 1)) / 2)
