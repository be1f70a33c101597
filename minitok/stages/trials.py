"""What is trained in chapter 7, by its name in the league: each method for its budgets, and the controls."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from minitok.project import (
    BUS,
    M3,
    MQT,
    PVC,
    CrossLMM,
    LLaVA,
    LLaVAMini,
    SliME,
    TokenFLEX,
    TokenPacker,
    VisionRemember,
    m3,
    mqt,
    tokenflex,
)
from minitok.stages import routers, telling
from minitok.stages.fitting import Budgets, More
from minitok.stages.inside import LooksFirst, Unfused, WidePooling
from minitok.stages.packing import Everywhere, Wide
from minitok.stages.projectors import Pooling, Resampler, Shuffle, Ungated
from minitok.stages.selecting import Attended, Lots, matching


@dataclass(frozen=True)
class Trial:
    """One row of the league for each of `budgets`, on scenes, crops or clips.

    `build(k)` makes the module for a budget. With `elastic`, which says with how many tokens a step is made, one
    module, built for the largest, is trained for all budgets. `more` is a loss of the method's own. `compiled` is false
    where the steps have many different numbers of tokens.
    """

    build: Callable[[int], nn.Module]
    budgets: tuple[int, ...]
    of: str = "scenes"
    elastic: Budgets | None = None
    more: More | None = None
    compiled: bool = True

    def drawn(self, k: int) -> Budgets:
        """With how many tokens each step of the training for the budget k is made."""
        return self.elastic or (lambda: (k,))

    def weights(self, k: int) -> int:
        """For which budget the module was trained that serves the budget k."""
        return max(self.budgets) if self.elastic else k


def lots(draw: Callable[[torch.Generator], int]) -> Budgets:
    """One number of tokens a step, drawn by lots of their own: the pictures stay the same for all methods."""
    generator = torch.Generator().manual_seed(0)
    return lambda: (draw(generator),)


def only(k: int) -> Budgets:
    """The same number of tokens in every step, for a module that is then asked for others."""
    return lambda: (k,)


TRIALS: dict[str, Trial] = {
    "llava": Trial(lambda k: LLaVA(), (256,)),
    "llava, one layer": Trial(lambda k: LLaVA(depth=1), (256,)),
    "pooling": Trial(Pooling, (64, 16, 4, 1)),
    "pixel shuffle": Trial(Shuffle, (64, 16)),
    "resampler": Trial(Resampler, (256, 64, 16, 4, 1)),
    "mqt": Trial(lambda k: MQT(), (256, 64, 16, 4, 1), elastic=lots(mqt.draw), compiled=False),
    "mqt, featured": Trial(lambda k: MQT(featured=True), (256, 64, 16, 4, 1), elastic=lots(mqt.draw), compiled=False),
    "mqt, only 256": Trial(lambda k: MQT(), (256, 64, 16, 4), elastic=only(256)),
    "mqt, fixed": Trial(lambda k: MQT(), (64, 16, 4)),
    "m3": Trial(lambda k: M3(), m3.scales(256), elastic=lambda: m3.scales(256)),
    "m3, drawn": Trial(lambda k: M3(), m3.scales(256), elastic=lots(lambda g: tokenflex.draw(g, m3.scales(256)))),
    "m3, only 256": Trial(lambda k: M3(), m3.scales(256), elastic=only(256)),
    "m3, fixed": Trial(lambda k: M3(), (16, 4, 1)),
    "tokenflex": Trial(lambda k: TokenFLEX(), (64, 49, 36, 25, 16), elastic=lots(tokenflex.draw)),
    "tokenflex, ungated": Trial(lambda k: Ungated(), tokenflex.BUDGETS, elastic=lots(tokenflex.draw)),
    "tokenflex, only 64": Trial(lambda k: TokenFLEX(), (64, 36, 16), elastic=only(64)),
    "tokenflex, only 36": Trial(lambda k: TokenFLEX(), (64, 36, 16), elastic=only(36)),
    "tokenflex, only 16": Trial(lambda k: TokenFLEX(), (64, 36, 16), elastic=only(16)),
    "llava_mini": Trial(LLaVAMini, (4, 1)),
    "llava_mini, two blocks": Trial(lambda k: LLaVAMini(k, depth=2, kv_heads=1, hidden=64), (1,)),
    "llava_mini, unfused": Trial(Unfused, (4, 1)),
    "vision_remember": Trial(VisionRemember, (16, 4)),
    "vision_remember, all see all": Trial(lambda k: VisionRemember(k, seen=1), (4,)),
    "vision_remember, last level": Trial(lambda k: VisionRemember(k, levels=(5, 5, 5)), (4,)),
    "vision_remember, in front": Trial(LooksFirst, (4,)),
    "pooling, wide": Trial(WidePooling, (4,)),
    "crosslmm": Trial(lambda k: CrossLMM(), (32, 8), of="clips"),
    # Of equal weight: one kind of look at four layers in place of two kinds at two, or a wider MLP in place of looks.
    "crosslmm, v2v": Trial(lambda k: CrossLMM(v2v=(1, 2, 3, 4), t2v=()), (8,), of="clips"),
    "crosslmm, t2v": Trial(lambda k: CrossLMM(v2v=(), t2v=(1, 2, 3, 4)), (8,), of="clips"),
    "crosslmm, pooled": Trial(lambda k: CrossLMM(v2v=(), t2v=(), hidden=1152), (32, 8), of="clips"),
    "pvc": Trial(lambda k: PVC(k // 4), (16, 4)),
    "pvc, no clock": Trial(lambda k: PVC(k // 4, timed=False), (16,)),
    "pvc, at once": Trial(lambda k: PVC(k, repeats=1), (16, 4)),
    "pvc, any time": Trial(lambda k: PVC(), (16, 12, 8, 4), elastic=lots(lambda g: tokenflex.draw(g, (16, 12, 8, 4)))),
    "tokenpacker": Trial(lambda k: TokenPacker(), (64, 16)),
    # As many weights: the last level four times, all patches for each query, a shuffle with a wider layer.
    "tokenpacker, last level": Trial(lambda k: TokenPacker(layers=(5, 5, 5, 5)), (64, 16)),
    "tokenpacker, everywhere": Trial(lambda k: Everywhere(), (16,)),
    "pixel shuffle, wide": Trial(lambda k: Wide(k, 398), (64,)),
    "bus": Trial(BUS, (16, 4), more=matching),
    "bus, no matching": Trial(BUS, (16,)),
    "bus, by lot": Trial(Lots, (16,)),
    "bus, by CLS": Trial(Attended, (16,)),
    "slime": Trial(lambda k: SliME(), routers.BUDGETS, "crops", lots(routers.drawn)),
    "slime, by lot": Trial(lambda k: routers.Lots(), routers.BUDGETS, "crops", lots(routers.drawn)),
    "slime, evenly": Trial(lambda k: routers.Even(), routers.BUDGETS, "crops", lots(routers.drawn)),
    "slime, router learns": Trial(lambda k: routers.Learning(), routers.BUDGETS, "crops", lots(routers.drawn)),
    "slime, in turns": Trial(lambda k: routers.InTurns(), routers.BUDGETS, "crops", lots(routers.drawn)),
    # Their expert is taught captions first (telling.train): 40 is room for all captions, 22 cuts them at the mean.
    "langdc": Trial(telling.langdc, (40, 22), of="clips"),
    "langdc, words": Trial(lambda k: telling.langdc(k, layer=0), (40,), of="clips"),
    "langdc, queries": Trial(telling.Queries, (22,), of="clips"),
}
