"""`vlm_dense`: one linear layer that reads off the patches of `vlm`'s ViT which shape, colour and digit stand there.

The ViT was trained with such a layer, which was thrown away; this one is fitted to its frozen features anew.
"""

import math
import pathlib

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from minitok.data import scenes
from minitok.house._answers import PARTS, TRAINED, dense_loss, in_parts, shown
from minitok.house._common import Options, batches
from minitok.train import Plan, fit, pick_device

DATA = "rendered scenes of 1 to 4 objects, 64x64: 800 to learn from, others held out"
PLAN = Plan(steps=800, lr=1e-2, warmup=50, weight_decay=0.0, ema=0.98)
SCENES, BATCH = 800, 16


def build() -> nn.Linear:
    """6 thousand parameters: 9 shapes, 9 colours and 12 digits, "none" among each."""
    return nn.Linear(192, sum(PARTS))


def held(count: int, seed: int, device: torch.device) -> tuple[Float[Tensor, "n p c"], Int[Tensor, "n p 3"]]:
    """The features of scenes' patches, and what these show."""
    from minitok import house

    host, drawn = house.load("vlm").to(device), scenes.render(count, seed=seed, device=device)
    features = in_parts(host.see, drawn.images, size=50)
    return features, shown(drawn.masks, drawn.shape, drawn.colour, drawn.glyph)


def train(folder: pathlib.Path, options: Options) -> nn.Module:
    """The cross-entropy of all three parts, over all patches of a few scenes a step."""
    plan, device = options.apply(PLAN), pick_device(options.device)
    draw = batches(device, *held(min(SCENES, plan.steps * BATCH), TRAINED, device))

    def loss(model: nn.Module, step: int) -> Tensor:
        features, labels = draw(BATCH)
        return dense_loss(model(features), labels)

    return fit(build(), loss, plan, folder, **options.where())


def quick(model: nn.Module) -> dict[str, float]:
    """The surprise of what patches show, all three parts together: a figure of the card that a test recomputes."""
    features, labels = held(24, 1, torch.device("cpu"))
    return {"bits a patch on 24 scenes": float(dense_loss(model(features), labels)) / math.log(2)}


def measure(model: nn.Module, count: int = 200) -> dict[str, float]:
    """Patches of held-out scenes named rightly, in percent: all of them, and those on objects."""
    features, labels = held(count, 10**6, torch.device("cpu"))
    said = torch.stack([part.argmax(-1) for part in model.cpu()(features).split(PARTS, -1)], -1)
    figures, there = quick(model), labels[..., 0] > 0
    for i, part in enumerate(("shape", "colour", "digit")):
        same = (said == labels)[..., i].float()
        figures |= {f"{part} (%)": 100 * float(same.mean()), f"{part} on objects (%)": 100 * float(same[there].mean())}
    return figures
