"""A host of chapter 6 where no token may stay lost: what each patch of a scene shows, with fewer tokens on the way.

The ViT of the house's vlm runs its first layers on all patches, the next ones on k tokens, and then all patches are
brought back; a linear layer says of each which shape, colour and digit it shows.
`stage(scenes=24).measure(method, 64)` says how much of that is left.
"""

import functools
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from minitok import house, metrics
from minitok.data import scenes as pictures
from minitok.data.objects import Scenes
from minitok.data.shapes import colours
from minitok.house._answers import PARTS, shown
from minitok.nn import Block
from minitok.reduce import Kept, Merged, Reduction, cost, reconstruction
from minitok.stages.controls import SIDE
from minitok.stages.dense_rows import Row, counted, mean
from minitok.stages.reduce_rows import needs
from minitok.vlm import VLM

Method = Callable[..., Reduction]
# From a reduction, the tokens before it, and its outputs after the layers on fewer tokens: all tokens again.
Back = Callable[[Reduction, Tensor, Tensor], Tensor]
LAYERS = (3, 6)


def copied(made: Reduction, x: Float[Tensor, "b n c"], y: Float[Tensor, "b k c"]) -> Float[Tensor, "b n c"]:
    """Each token gets the outputs that it went into; a dropped one gets that of the kept one nearest by place."""
    if not isinstance(made, Kept):
        return made.restore(y)
    place = torch.arange(SIDE**2, device=x.device)
    grid = torch.stack([place // SIDE, place % SIDE], -1).to(y.dtype)
    nearest = torch.cdist(grid[None], grid[made.indices]).argmin(-1)
    return y.gather(1, nearest[..., None].expand(-1, -1, y.shape[2]))


def smooth(made: Reduction, x: Float[Tensor, "b n c"], y: Float[Tensor, "b k c"]) -> Float[Tensor, "b n c"]:
    """A square number of tokens as a coarse picture, bilinearly enlarged: for means of squares."""
    root = round(y.shape[1] ** 0.5)
    coarse = y.mT.unflatten(2, (root, root))
    return F.interpolate(coarse, size=(SIDE, SIDE), mode="bilinear", align_corners=False).flatten(2).mT


def rebuilt(
    made: Reduction, x: Float[Tensor, "b n c"], y: Float[Tensor, "b k c"], **settings: float
) -> Float[Tensor, "b n c"]:
    """Expedit's reconstruction layer; `settings` are those of `reduce.reconstruction`."""
    return reconstruction(x, made.apply(x), **settings) @ y  # pyright: ignore[reportArgumentType]


@dataclass(frozen=True, eq=False)
class Stage:
    """The host with its linear layer, held-out scenes, and what is known with all tokens."""

    host: VLM
    head: nn.Module
    scenes: Scenes

    @functools.cached_property
    def labels(self) -> Int[Tensor, "b n 3"]:
        """Shape, colour and digit at the middle of each patch, 0 for none."""
        return shown(self.scenes.masks, self.scenes.shape, self.scenes.colour, self.scenes.glyph)

    @functools.cached_property
    @torch.no_grad()
    def levels(self) -> Float[Tensor, "b l m c"]:
        """CLS and all patches before the first layer and after each."""
        found: list[list[Tensor]] = []
        for part in self.scenes.images.split(32):
            found.append([self.host.vit.embed(part)])
            self.host.vit.tokens(part, after_layer=lambda _, x: found[-1].append(x) or x)
        return torch.cat([torch.stack(part, 1) for part in found])

    @functools.cached_property
    def before(self) -> Int[Tensor, "b n 3"]:
        """What is said of each patch with all tokens."""
        return self.said(self.levels[:, -1])

    @functools.cached_property
    def full(self) -> Row:
        """The row of all tokens."""
        return counted(self.before, self.labels, self.before)

    @property
    def whole(self) -> float:
        """FLOPs of the ViT's layers for one scene with all tokens, in billions."""
        return cost(self.host.vit.body, {}, SIDE**2) / 1e9

    @torch.no_grad()
    def said(self, x: Float[Tensor, "b m c"]) -> Int[Tensor, "b n 3"]:
        """What is said of each patch, from CLS and all patches after the last layer."""
        logits = self.head(self.host.vit.body.norm(x[:, 1:]))
        return torch.stack([part.argmax(-1) for part in logits.split(PARTS, -1)], -1)

    @functools.cache  # noqa: B019 - a stage lives as long as its lesson
    @torch.no_grad()
    def signals(self, layer: int) -> dict[str, Tensor]:
        """What layer number `layer` knew of the patches that it made, by the names that methods ask for."""
        block, x = cast("Block", self.host.vit.body.blocks[layer]), self.levels[:, layer]
        places = torch.zeros(1, x.shape[1], device=x.device)
        attention, keys = block.attention.map(block.norm1(x), places)
        inner = attention[:, :, 1:, 1:]
        return {"keys": keys[:, :, 1:], "attention": inner, "cls_attention": attention[:, :, 0, 1:]}

    def coloured(
        self, scene: int, method: Method | None = None, k: int = SIDE**2, back: Back = copied
    ) -> Float[Tensor, "3 64 64"]:
        """What is said of the colours of one scene, as a picture, gray for none; without a method with all tokens."""
        x = self.levels[scene : scene + 1]
        last = x[:, -1] if method is None else self.passed(method, k, x[:, LAYERS[0]], {}, LAYERS, back)
        ink = torch.cat([torch.full((1, 3), 0.85), colours()])
        picture = ink[self.said(last)[0, :, 1]].T.unflatten(1, (SIDE, SIDE))
        return picture.repeat_interleave(4, 1).repeat_interleave(4, 2)

    def measure(
        self,
        method: Method | Sequence[Method],
        k: int,
        layers: tuple[int, int] = LAYERS,
        back: Back = copied,
    ) -> Row:
        """What is left of the labels if layers `layers[0]` to `layers[1] - 1` have k tokens and CLS, not all.

        Several methods, such as draws, give their mean. A method may ask for the `keys`, `attention` and
        `cls_attention` of the layer before. `back` brings all patches back. Merged tokens weigh in attention by their
        size, as on the other hosts. Raises `ValueError` as the method does, and for other layers than 1 to 6.
        """
        if not callable(method):
            return mean([self.measure(one, k, layers, back) for one in method])
        start, end = layers
        last = len(self.host.vit.body.blocks)
        if not 1 <= start < end <= last:
            raise ValueError(f"layers={layers} came, expected a start from 1 on and an end from there to {last}")
        asked = [name for name in self.signals(start - 1) if name in inspect.signature(method).parameters]
        x = self.levels[:, start]
        given = {name: self.signals(start - 1)[name] for name in asked}
        row = counted(self.said(self.passed(method, k, x, given, layers, back)), self.labels, self.before)
        flops, own = self.costs(method, k, {name: signal[:1] for name, signal in given.items()}, layers, back)
        return Row(**{**vars(row), "tokens": k, "flops": flops, "own": own, "needs": needs(asked)})

    @torch.no_grad()
    def passed(
        self, method: Method, k: int, x: Tensor, given: dict[str, Tensor], layers: tuple[int, int], back: Back
    ) -> Float[Tensor, "b m c"]:
        """CLS and all patches after the last layer."""
        blocks, made = self.host.vit.body.blocks, method(x[:, 1:], k, **given)
        y, bias = torch.cat([x[:, :1], made.apply(x[:, 1:])], 1), None
        if isinstance(made, Merged):
            bias = F.pad(made.sizes(x.new_ones(x.shape[0], SIDE**2)).log(), (1, 0))[:, None, None]
        for i in range(*layers):
            y = blocks[i](y, torch.zeros(1, 1 + k, device=x.device), bias)
        y = torch.cat([y[:, :1], back(made, x[:, 1:], y[:, 1:])], 1)
        for i in range(layers[1], len(blocks)):
            y = blocks[i](y, torch.zeros(1, 1 + SIDE**2, device=x.device))
        return y

    def costs(
        self, method: Method, k: int, given: dict[str, Tensor], layers: tuple[int, int], back: Back
    ) -> tuple[float, float]:
        """FLOPs of the ViT's layers, and of the method with the way back, as shares of those with all tokens."""
        body, fewer = self.host.vit.body, layers[1] - layers[0]
        total, whole = len(body.blocks), cost(body, {}, SIDE**2)
        flops = (total - fewer) / total + fewer / total * cost(body, {}, k) / whole
        x = self.levels[:1, layers[0], 1:]

        def job() -> None:
            made = method(x, k, **given)
            back(made, x, x[:, :k])

        return flops, metrics.flops(job) / whole


def stage(scenes: int = 24, seed: int = 10**6) -> Stage:
    """The stage on so many held-out scenes."""
    return Stage(house.load("vlm"), house.load("vlm_dense"), pictures.render(scenes, seed=seed))
