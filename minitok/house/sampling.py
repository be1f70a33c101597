"""Drawing pictures with `image_gpt`, `image_draft` or `nar`, and what the house has chosen for it."""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from minitok.generate._common import generate

# Chosen on the validation photographs: of guidance 1 to 3 and temperature 0.9 and 1, these come closest to them.
GUIDANCE, TEMPERATURE = 1.0, 1.0
ANY, N = 10, 256  # the label that stands for any class; codes of a picture


def sample(model: Any, labels: Int[Tensor, "b"], **how: Any) -> Int[Tensor, "b 256"]:
    """The codes that `generate` draws, at the house's guidance and temperature unless `how` says otherwise."""
    return generate(model, labels, **{"guidance": GUIDANCE, "temperature": TEMPERATURE, **how}).codes


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
