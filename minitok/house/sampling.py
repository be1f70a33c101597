"""Drawing pictures with `image_gpt` or `image_draft`, one code after another."""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from minitok.nn import Cache

# Chosen on the validation photographs: of guidance 1 to 3 and temperature 0.9 and 1, these come closest to them.
GUIDANCE, TEMPERATURE = 1.0, 1.0
ANY, N = 10, 256  # the label that stands for any class; codes of a picture


@torch.no_grad()
def sample(
    model: nn.Module,
    labels: Int[Tensor, "b"],
    *,
    guidance: float = GUIDANCE,
    temperature: float = TEMPERATURE,
    seed: int = 0,
    watch: Callable[[Tensor], None] | None = None,
) -> Int[Tensor, "b 256"]:
    """Draws one code after another: 256 calls of the model for one image each.

    `guidance` g moves the logits from those of any class to those of the class asked for, `u + g (c - u)`; 1 is none
    (classifier-free guidance, arXiv 2207.12598). `watch` is given the codes so far after each call.
    """
    if labels.numel() and not (int(labels.min()) >= 0 and int(labels.max()) < ANY):
        raise ValueError(f"labels from {int(labels.min())} to {int(labels.max())} came, expected 0 to {ANY - 1}")
    if temperature <= 0:
        raise ValueError(f"temperature={temperature} came, expected more than 0")
    generator = torch.Generator(labels.device).manual_seed(seed)
    asked = torch.cat([labels, torch.full_like(labels, ANY)]) if guidance != 1 else labels
    codes, cache = labels.new_zeros(len(labels), 0), Cache()
    new = codes
    while codes.shape[1] < N:
        logits = model(new.repeat(len(asked) // len(labels), 1), asked, cache)[:, -1].float()
        if guidance != 1:
            conditional, free = logits.chunk(2)
            logits = free + guidance * (conditional - free)
        new = torch.multinomial((logits / temperature).softmax(-1), 1, generator=generator)
        codes = torch.cat([codes, new], dim=1)
        if watch is not None:
            watch(codes)
    return codes


@torch.no_grad()
def draw(model: nn.Module, labels: Int[Tensor, "b"], **how: Any) -> Float[Tensor, "b 3 64 64"]:
    """Pictures of the classes asked for: `sample`, then the shipped tokenizer's decoder, 500 at a time."""
    from minitok import house

    tokenizer = house.load("tokenizer").to(labels.device)
    return torch.cat(
        [
            tokenizer.decode(sample(model, part, seed=i, **how)[..., None]).cpu()
            for i, part in enumerate(labels.split(500))
        ]
    )
