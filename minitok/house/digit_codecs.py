"""`digit_codecs`: small autoencoders of digits, without codes and with some, that lessons of chapter 1 compare with.

All are the network of `minitok.house.bottleneck` after 400 steps: `none` has no codes, `vq16` to `vq1024` learn a
codebook of so many vectors with it, `rvq16x4` four of 16, `lfq8` and `lfq14` have so many signs. `kmeans64` is `none`
after half of the steps, with 64 codes by k-means, whose decoder then learns for the other half.
"""

import pathlib
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from minitok.data import mnist
from minitok.house._common import Options
from minitok.house.bottleneck import Bottleneck
from minitok.house.bottleneck import train as fit
from minitok.metrics import psnr
from minitok.quantize import LFQ, RVQ, VQ, nearest
from minitok.train import Plan, pick_device

DATA = "MNIST-5k: 4,000 digits to learn from, 1,000 held out"
PLAN = Plan(steps=400, lr=1.2e-2)
QUANTIZERS: dict[str, Callable[[], nn.Module]] = {
    "vq16": partial(VQ, 8, 16), "kmeans64": partial(VQ, 8, 64), "vq64": partial(VQ, 8, 64),
    "vq256": partial(VQ, 8, 256), "vq1024": partial(VQ, 8, 1024), "rvq16x4": partial(RVQ, 8, 16, 4),
    "lfq8": partial(LFQ, 8, 0.03, 0.01), "lfq14": partial(LFQ, 14, 0.03, 0.01),
}  # fmt: skip
# Where another than the plan's is better.
RATES = {"lfq8": 5e-3, "lfq14": 5e-3}


def build() -> nn.ModuleDict:
    """All of them by name, not trained."""
    made = {name: Bottleneck(make()) for name, make in QUANTIZERS.items()}
    return nn.ModuleDict({"none": Bottleneck(None)} | made)


def train(folder: pathlib.Path, options: Options) -> nn.Module:
    """One after another, from one seed; nothing is kept in `folder`, since all take a minute."""
    plan, images = options.apply(PLAN), mnist.load("train").images.to(pick_device(options.device))
    models: dict[str, Bottleneck] = {}
    for name in build():
        if name.startswith("kmeans"):
            models[name] = afterwards(images, QUANTIZERS[name](), plan)
            continue
        quantizer = QUANTIZERS[name]() if name in QUANTIZERS else None
        models[name] = Bottleneck(quantizer, seed=plan.seed).to(images.device)
        fit(models[name], images, plan.steps, RATES.get(name, plan.lr), plan.seed)
    return nn.ModuleDict(models)


def afterwards(images: Float[Tensor, "n 1 28 28"], quantizer: Any, plan: Plan) -> Bottleneck:
    """Half of the steps without codes; then k-means, and the decoder alone for the other half."""
    model, half = Bottleneck(None, seed=plan.seed).to(images.device), plan.steps // 2
    fit(model, images, half, plan.lr, plan.seed)
    with torch.no_grad():
        places = kmeans(model.vectors(images[:400]), quantizer.K)
    model.quantizer = quantizer.to(images.device)
    quantizer.codebook.data = places
    for frozen in (model.encoder, model.quantizer):
        frozen.requires_grad_(False)
    return fit(model, images, plan.steps - half, plan.lr, plan.seed, start=False)


def kmeans(z: Float[Tensor, "b n d"], K: int, rounds: int = 30) -> Float[Tensor, "K d"]:
    """K places among the vectors: each moves to the mean of the vectors nearest to it, again and again.

    >>> kmeans(torch.tensor([[[0.0], [2.0], [10.0], [12.0]]]), 2).sort(0).values.flatten().tolist()
    [1.0, 11.0]

    They start on vectors drawn at random; a place without vectors stays.
    """
    vectors = z.flatten(0, 1)
    places = vectors[torch.randperm(len(vectors), device=z.device)[:K]]
    for _ in range(rounds):
        code = nearest(vectors[None], places)[0]
        count = code.bincount(minlength=K)[:, None]
        sums = torch.zeros_like(places).index_add_(0, code, vectors)
        places = torch.where(count > 0, sums / count.clamp(min=1), places)
    return places


def quick(models: nn.ModuleDict) -> dict[str, float]:
    """PSNR of 1,000 held-out digits from each."""
    images = mnist.load("test").images
    made = {name: model for name, model in models.items() if isinstance(model, Bottleneck)}
    return {f"PSNR of {name} (dB)": float(psnr(model.rebuild(images), images).mean()) for name, model in made.items()}


measure = quick
