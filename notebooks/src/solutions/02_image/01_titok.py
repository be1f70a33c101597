"""Solutions to the exercises of notebooks/02_image/01_titok.ipynb."""

import torch

from minitok.image import unpatch


def encode(model, images):
    """Exercise 1: patches and latents in, what stands at the latents out."""
    encoder = model.encoder
    patches = encoder.patches(images * 2 - 1).flatten(2).transpose(1, 2) + encoder.position
    joined = torch.cat([patches, encoder.latents.expand(len(images), -1, -1)], dim=1)
    return encoder.out(encoder.body(joined, "full")[:, patches.shape[1] :])


def paint(model, values):
    """Exercise 1, back: masks and the description in, what stands at the masks out."""
    decoder = model.decoder
    description = decoder.enter(values) + decoder.place[: values.shape[1]]
    blank = (decoder.mask + decoder.position).expand(len(values), -1, -1)
    out = decoder.body(torch.cat([blank, description], dim=1), "full")[:, : blank.shape[1]]
    rough = unpatch(decoder.out(out), decoder.patch)
    return (rough + decoder.smooth(rough) + 1) / 2


def renumber(model, order):
    """Exercise 2: the question and its place in the answer move together."""
    model.encoder.latents.data = model.encoder.latents[order]
    model.decoder.place.data = model.decoder.place[order]
