"""The league of chapter 6: every reduction inside the house's vit, from 256 tokens down to 8, without training."""

import math
import pathlib
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from minitok import house
from minitok.data import clothing
from minitok.house import Options
from minitok.metrics import accuracy
from minitok.reduce._common import Reduction, cost, even, once, resume, spread
from minitok.reduce.divprune import divprune
from minitok.reduce.fopru import fopru
from minitok.reduce.pitome import falling, pitome
from minitok.reduce.random_drop import random_drop
from minitok.reduce.token_transforming import token_transforming
from minitok.reduce.tome import tome
from minitok.stages._common import kept

TITLE = "256 tokens become fewer inside a trained ViT: which method keeps the answer?"
HOW = (
    "The house's vit on the 372 test photographs, not trained again, in float32. 'once': after the attention of layer "
    "3 of 0 to 7. 'spread': every layer takes away as many tokens as any other. CLS always stays. Cost is that of the "
    "layers for one photograph, without what a method itself computes. 'moved' is how far the answer went from that "
    "with all tokens, as a Kullback-Leibler divergence. Random dropping is the mean of five draws; pooling is the mean "
    "of squares of patches, whatever they show."
)
SCORES = {"right": "%", "moved": "bits", "cost": "billion FLOPs"}
COUNTS, LAYER = {"once": (192, 128, 64, 32, 16, 8), "spread": (64, 16)}, 3


def pooling(x: Tensor, k: int) -> Reduction:
    """The mean of each square of patches; for a k that is a square number of which 16 is a multiple of the root."""
    side = 16 // math.isqrt(k)
    place = torch.arange(256)
    square = place // 16 // side * (16 // side) + place % 16 // side
    return Reduction.merge(square.expand(len(x), -1), k)


METHODS: dict[str, list[Callable[..., Reduction]]] = {
    "random_drop": [partial(random_drop, seed=seed) for seed in range(5)],
    "tome": [tome],
    "pitome": [pitome],
    "token_transforming": [token_transforming],
    "divprune": [divprune],
    "fopru": [fopru],
    "pooling": [pooling],
}


def placed(name: str, where: str, k: int, method: Callable[..., Reduction]) -> Callable:
    """The `on_layer` of one row; PiToMe's margin falls from layer to layer where it is spread."""
    if where == "once":
        return once(LAYER, k, method)
    schedule = even(256, k, 8)
    return falling(schedule, 8) if name == "pitome" else spread(schedule, method)


def score(logits: Float[Tensor, "b v"], everything: Float[Tensor, "b v"], labels: Tensor) -> dict[str, float]:
    """Right answers in percent, and the bits by which the answer moved from that with all tokens."""
    p, q = everything.log_softmax(-1), logits.log_softmax(-1)
    moved = float((p.exp() * (p - q)).sum(-1).mean()) / math.log(2)
    return {"right": 100 * accuracy(logits, labels), "moved": moved}


@torch.no_grad()
def measure(folder: pathlib.Path, options: Options, every: int = 1) -> list[dict[str, Any]]:
    """The rows of all methods, places and counts, and that of all tokens; `every` thins out the photographs."""
    vit, test = house.load("vit"), clothing.load("test")
    images, labels = test.images[::every], test.labels[::every]
    logits = {"once": resume(vit, images, LAYER), "spread": resume(vit, images, 0)}
    everything = vit(images)
    whole = {"cost": cost(vit.body, {}, 256) / 1e9, **score(everything, everything, labels)}
    rows: list[dict[str, Any]] = [{"where": "none", "method": "none", "tokens": 256, **whole}]
    pieces = [(where, name, k) for where in logits for name in METHODS for k in COUNTS[where]]
    # Pooling needs a square number of squares, and all patches in their places.
    pieces = [(where, name, k) for where, name, k in pieces if name != "pooling" or (where == "once" and k in (64, 16))]
    for where, name, k in tqdm(pieces, disable=not options.progress):

        def found(where: str = where, name: str = name, k: int = k) -> dict[str, float]:
            runs = [score(logits[where](placed(name, where, k, m)), everything, labels) for m in METHODS[name]]
            return {key: sum(run[key] for run in runs) / len(runs) for key in runs[0]}

        schedule = {LAYER: k} if where == "once" else even(256, k, 8)
        figures = kept(folder, f"{where}-{name}-{k}-{every}", found)
        price = cost(vit.body, schedule, 256) / 1e9
        rows.append({"where": where, "method": name, "tokens": k, **figures, "cost": price})
    return rows
