"""Controls of chapter 7 for methods that reach into the language model: equal weights, with one thing left out."""

from typing import Any

from torch import Tensor, nn

from minitok.project import LLaVAMini, VisionRemember
from minitok.stages.projectors import Pooling
from minitok.vlm import VLM


class Unfused(LLaVAMini):
    """LLaVA-Mini whose words are not fused: what its compressed tokens can say, which have been through its blocks."""

    def read(
        self, host: VLM, x: Tensor, words: Tensor, k: int | None = None, *, text: Tensor, asked: Tensor, **given: Any
    ) -> Tensor:
        return host.read(self(x, k), words, text=text, **given)


class LooksFirst(VisionRemember):
    """Vision Remember's modules one after another before the language model, and none inside."""

    def read(
        self, host: VLM, x: Tensor, words: Tensor, k: int | None = None, *, levels: Tensor, **given: Any
    ) -> Tensor:
        visual, features = self(x, k), self.features(levels)
        for module in self.remember:
            visual = module(visual, features)
        return host.read(visual, words, **given)


class WidePooling(Pooling):
    """The mean of each square with as many parameters as Vision Remember has: a wider layer between its two."""

    def __init__(self, k: int, c: int = 192, d: int = 192, hidden: int = 1151) -> None:
        super().__init__(k, c, d)
        self.mlp.layers = nn.Sequential(nn.Linear(c, hidden), nn.GELU(), nn.Linear(hidden, d))
