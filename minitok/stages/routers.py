"""What SliME's router is measured against: lots, an even grid, a router that learns; the paper's stages."""

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from minitok.project.slime import STAGES, SliME, learns
from minitok.stages import fitting
from minitok.vlm import VLM

# 256 tokens of the whole picture and all, a half, a quarter, ... of the 256 of the crops.
BUDGETS = (512, 384, 320, 288, 272)


def drawn(generator: torch.Generator) -> int:
    """The number of tokens of a training step: any of `BUDGETS`, so that one module serves all of them and any p."""
    return BUDGETS[int(torch.randint(len(BUDGETS), (), generator=generator))]


def spread(n: int) -> Int[Tensor, " {n}"]:
    """The turn of each token of a square grid: the first 4, 16, 64, ... make an even grid themselves.

    >>> spread(16).view(4, 4).tolist()
    [[0, 8, 2, 10], [4, 12, 6, 14], [1, 9, 3, 11], [5, 13, 7, 15]]

    The side is a power of two.
    """
    bits = int(math.log2(n)) // 2
    index = torch.arange(n)
    turn = torch.zeros(n, dtype=torch.long)
    for bit in range(bits):
        row, column = index >> (bits + bit) & 1, index >> bit & 1
        turn += (column << (2 * (bits - 1 - bit) + 1)) + (row << (2 * (bits - 1 - bit)))
    return turn


class Lots(SliME):
    """SliME with the tokens of the crops drawn by lot: anew in each step, and the same ones afterwards."""

    def score(
        self, local: Float[Tensor, "b n d"], text: Float[Tensor, "b t d"], asked: Bool[Tensor, "b t"]
    ) -> Float[Tensor, "b n"]:
        generator = None if self.training else torch.Generator().manual_seed(0)
        return torch.rand(local.shape[:2], generator=generator).to(local)


class Even(SliME):
    """SliME with the tokens of the crops taken at even distances, whatever is asked."""

    def score(
        self, local: Float[Tensor, "b n d"], text: Float[Tensor, "b t d"], asked: Bool[Tensor, "b t"]
    ) -> Float[Tensor, "b n"]:
        return -spread(local.shape[1]).to(local).expand(len(local), -1)


class Learning(SliME):
    """SliME with a straight-through router: kept tokens are multiplied by 1, whose gradient is that of their share.

    The authors' code holds these lines, and leaves them out.
    """

    def choose(
        self, local: Float[Tensor, "b n d"], scores: Float[Tensor, "b n"], few: int
    ) -> Float[Tensor, "b {few} d"]:
        share = (scores / self.temperature).softmax(1)[..., None]
        return super().choose(local * (1 + share - share.detach()), scores, few)


class InTurns(SliME):
    """SliME trained in the paper's order, a quarter of the steps each: MLP, resampler, compression of crops, all."""

    turn = 0

    def read(
        self,
        host: VLM,
        x: Float[Tensor, "b n c"],
        words: Int[Tensor, "b t"],
        k: int | None = None,
        *,
        slots: Int[Tensor, " t"] | None = None,
        text: Float[Tensor, "b t d"],
        asked: Bool[Tensor, "b t"],
    ) -> Float[Tensor, "b t d"]:
        """In training it counts the steps, and reads what the stage of the step gives."""
        stage = STAGES[-1]
        if self.training:
            stage = STAGES[min(self.turn * len(STAGES) // fitting.PLAN.steps, len(STAGES) - 1)]
            self.turn += 1
            self.requires_grad_(False)
            for parameter in learns(self, stage):
                parameter.requires_grad_(True)
        if stage == STAGES[-1]:
            return super().read(host, x, words, k, slots=slots, text=text, asked=asked)
        return host.read(self.alone(x, stage), words, slots=slots)
