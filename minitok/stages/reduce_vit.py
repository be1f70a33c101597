"""The first host of chapter 6: a trained ViT, photographs of clothes, and what fewer tokens do to its answers."""

import functools
import inspect
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from minitok import house, metrics
from minitok.data import clothing, photographs
from minitok.reduce import Reduction, cost, even, offered, resume, spread
from minitok.stages.answers import Row, row
from minitok.stages.controls import SIDE, signals_of
from minitok.stages.reduce_rows import mean
from minitok.vit import ViT

Method = Callable[..., Reduction]
LAYER = 3


@dataclass(frozen=True)
class Stage:
    """The host with its photographs, and its answers with all tokens; `measure` tries a method."""

    vit: ViT
    images: Float[Tensor, "b 3 64 64"]
    labels: Int[Tensor, "b"]
    logits: Float[Tensor, "b classes"]
    data: str

    @functools.cached_property
    def full(self) -> Row:
        """The row of all tokens."""
        return self.score(self.logits)

    @property
    def whole(self) -> float:
        """FLOPs of the layers for one photograph with all tokens, in billions."""
        return cost(self.vit.body, {}, SIDE**2) / 1e9

    @functools.cache  # noqa: B019 - a stage lives as long as its lesson
    def before(self, layer: int) -> Callable[[Callable], Tensor]:
        """The logits as a function of `on_layer`, with the layers before number `layer` computed only once."""
        return resume(self.vit, self.images, layer)

    def score(self, logits: Float[Tensor, "b classes"], flops: float = 1.0, own: float = 0.0) -> Row:
        """The row of these answers."""
        return row(logits, self.logits, self.labels, flops, own)

    def measure(
        self, method: Method | Sequence[Method], k: int, layer: int | None = LAYER, through: Callable = spread
    ) -> Row:
        """What remains of the answers with k of 256 tokens; several methods, such as draws, give their mean.

        `layer`: one cut, between the attention and the feed-forward part of that layer (0: the first). None: every
        layer takes away as many, by `through(schedule, method)`. Raises `ValueError` as the method does.
        """
        schedule = even(SIDE**2, k, 8) if layer is None else {layer: k}
        return self.along(schedule, method, through)

    @torch.no_grad()
    def along(self, schedule: Mapping[int, int], method: Method | Sequence[Method], through: Callable = spread) -> Row:
        """The same where layer i leaves `schedule[i]` tokens."""
        if not callable(method):
            return mean([self.along(schedule, one, through) for one in method])
        logits = self.before(min(schedule))(through(schedule, method))
        whole = cost(self.vit.body, {}, SIDE**2)
        own = sum(self.own(method, k, n) for n, k in steps(schedule))
        return self.score(logits, cost(self.vit.body, schedule, SIDE**2) / whole, own / whole)

    def own(self, method: Method, k: int, n: int = SIDE**2) -> int:
        """FLOPs that a method itself needs to leave k of n tokens of one photograph."""
        x, asked = torch.randn(1, n, self.vit.body.shape.width), inspect.signature(method).parameters
        if n == k:
            return 0
        signals = {name: signal for name, signal in signals_of(self.vit, n).items() if name in asked}
        return metrics.flops(partial(method, **signals), x, k)

    def seen(self, photo: int | slice, layer: int = LAYER) -> dict[str, Tensor]:
        """What a layer knows of photographs' patches: `x` (b, 256, 192), and the signals of `reduce.offered`."""
        found: dict[str, Tensor] = {}

        def look(seen: Any) -> None:
            if seen.index == layer:
                found.update(x=seen.hidden[:, 1:], **offered(seen))

        with torch.no_grad():
            self.vit(self.images[photo : photo + 1] if isinstance(photo, int) else self.images[photo], look)
        return found


def steps(schedule: Mapping[int, int], n: int = SIDE**2) -> list[tuple[int, int]]:
    """The number of tokens before and after each layer of a schedule.

    >>> steps({0: 200, 1: 100})
    [(256, 200), (200, 100)]
    """
    return list(itertools.pairwise([n, *schedule.values()]))


def stage(images: int = 62) -> Stage:
    """The stage on so many test photographs of clothes, spread over the test set.

    Where the photographs are not at hand, crops of scikit-image's stand in, and "right" means as with all tokens.
    """
    vit = house.load("vit")
    if clothing.at_hand():
        test = clothing.load("test")
        rows = torch.arange(images) * len(test.images) // images
        chosen, labels, data = test.images[rows], test.labels[rows], f"{images} of 372 clothing photographs (test set)"
    else:
        chosen, labels, data = photographs.crops(images, 64), None, f"{images} crops of scikit-image's photographs"
    with torch.no_grad():
        logits = torch.cat([vit(part) for part in chosen.split(32)])
    return Stage(vit, chosen, logits.argmax(-1) if labels is None else labels, logits, data)
