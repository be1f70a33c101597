"""What BUS needs of the stage of chapter 7: the loss that trains its selector, other selectors, and what they find.

The other selectors have the same decoder behind them: patches by lot, and those that CLS attends to most.
"""

from dataclasses import replace
from typing import cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from minitok.data.objects import Scenes
from minitok.data.questions import KINDS, Questions
from minitok.house._answers import in_a_word
from minitok.nn import Layer
from minitok.project.bus import BUS, matching_loss, patches_of, select
from minitok.stages.fitting import Bank
from minitok.stages.reading import Stage
from minitok.vlm import VLM

COUNT, PATCH = KINDS.index("count"), 4


def boxes_of(where: Int[Tensor, "b n"], slots: int = 4) -> Float[Tensor, "b m 4"]:
    """The boxes in pixels around the patches that show each object; all zeros for one that none shows.

    >>> boxes_of(torch.tensor([[-1, 1, 1, -1]]), slots=2).tolist()
    [[[0.0, 0.0, 0.0, 0.0], [0.0, 0.0, 8.0, 8.0]]]
    """
    side = int(where.shape[1] ** 0.5)
    shows = where.view(-1, 1, side, side) == torch.arange(slots, device=where.device)[:, None, None]
    count, start, past = torch.arange(side, device=where.device), [], []
    for line in (shows.any(2), shows.any(3)):  # columns, then rows
        start.append(count.where(line, side).amin(-1).where(line.any(-1), 0))
        past.append((count + 1).where(line, 0).amax(-1))
    return PATCH * torch.stack([*start, *past], 2).float()


def named(asked: Questions, slots: int = 4) -> Bool[Tensor, "r m"]:
    """Which objects each question names: those that it asks for; all of them, where it counts."""
    slot = torch.arange(slots, device=asked.kind.device)
    those = (asked.first[:, None] == slot) | (asked.second[:, None] == slot)
    return those | (asked.kind == COUNT)[:, None]


def judged(
    method: BUS, host: VLM, images: Float[Tensor, "b 3 H W"], asked: Questions, rows: Int[Tensor, " r"]
) -> Float[Tensor, "r n"]:
    """What a selector says of the patches, as logits, to each question; `rows` are the pictures that they are about."""
    shown: list[Layer] = []
    with torch.no_grad():
        host.vit.tokens(images, lambda layer: shown.append(layer) if layer.index == method.layer else None)
    seen = shown[0]
    parts = {name: getattr(seen, name)[rows] for name in ("hidden", "keys", "size")}
    each = replace(seen, **parts, write_out=lambda: seen.attention[rows])
    return method.scores(each, host.word(asked.words), asked.words > 0)


def matching(method: nn.Module, host: VLM, some: Bank) -> Tensor:
    """Patch-text matching on a step's pictures and all their questions but the captions."""
    rows, slots = in_a_word(some.asked).nonzero(as_tuple=True)
    asked = some.asked[rows, slots]
    logits = judged(cast("BUS", method), host, some.images, asked, rows)
    return matching_loss(logits, patches_of(boxes_of(some.where)[rows], named(asked)))


@torch.no_grad()
def recall(stage: Stage, method: BUS) -> Float[Tensor, " r"]:
    """How many of the patches that overlap what is asked for are picked, of as many as could be, in percent.

    One number for each question that asks for an object which is there; counts and captions are left out.
    """
    rows, slots = (stage.which & (stage.asked.first >= 0)).nonzero(as_tuple=True)
    asked = stage.asked[rows, slots]
    picked = select(judged(method, stage.host, stage.pictures, asked, rows), method.u)[:, :-1].sum(1) > 0
    wanted = patches_of(cast("Scenes", stage.scenes).boxes[rows], named(asked))
    return 100 * (picked & wanted).sum(1) / wanted.sum(1).clamp(max=method.u)


class Lots(BUS):
    """Patches by lot: drawn anew at each step of training, afterwards the same for each row of a batch."""

    def __init__(self, m: int) -> None:
        super().__init__(m)
        del self.selector

    def scores(self, layer: Layer, text: Tensor, asked: Tensor) -> Tensor:
        generator = None if self.training else torch.Generator().manual_seed(0)
        return torch.rand(layer.hidden[:, 1:, 0].shape, generator=generator).logit().to(layer.hidden.device)


class Attended(BUS):
    """Patches by what CLS pays to them in that layer, the mean over heads: the question is not heard."""

    def __init__(self, m: int) -> None:
        super().__init__(m)
        del self.selector

    def scores(self, layer: Layer, text: Tensor, asked: Tensor) -> Tensor:
        return layer.attention[:, :, 0, 1:].float().mean(1).logit()
