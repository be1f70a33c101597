"""What the house's `vlm` looked at when it answered rightly: relevance, its first and its last attention, in banks."""

from dataclasses import dataclass, fields, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from minitok.data import scenes as pictures
from minitok.data.questions import SLOTS, ask
from minitok.house._answers import TRAINED
from minitok.reduce.explain_compress import explain, mean_paid
from minitok.vlm import VLM

PART = 16


@dataclass(frozen=True)
class Bank:
    """Questions that the host answers rightly, each with what it looked at; index it like a tensor.

    `visual` are the tokens of all pictures, and question i is about picture `scene[i]`. `relevance` explains its
    answer, `paid` is what the first layer's words pay on average, `guide` what the last word pays in the last layer.
    """

    host: VLM
    visual: Float[Tensor, "s n c"]
    words: Int[Tensor, "r t"]
    scene: Int[Tensor, "r"]
    answer: Int[Tensor, "r"]
    relevance: Float[Tensor, "r n"]
    paid: Float[Tensor, "r n"]
    guide: Float[Tensor, "r h n"]

    def __getitem__(self, rows: Tensor) -> "Bank":
        return replace(self, **{field.name: getattr(self, field.name)[rows] for field in fields(self)[2:]})

    @property
    def tokens(self) -> Float[Tensor, "r n c"]:
        """The visual tokens of each question."""
        return self.visual[self.scene].float()

    @property
    def asked(self) -> Bool[Tensor, "r t"]:
        """Which words are there."""
        return self.words != 0


def positions(host: VLM, n: int, t: int, device: torch.device) -> Float[Tensor, "1 m"]:
    """The places of n visual tokens and then of t words."""
    words = host.patches + torch.arange(t, device=device, dtype=torch.float32)[None]
    return torch.cat([host.places(n, device), words], 1)


def pooled(visual: Float[Tensor, "b n c"], side: int) -> Float[Tensor, "b m c"]:
    """The means of the squares of a grid, so that side x side tokens are left."""
    old = round(visual.shape[1] ** 0.5)
    return visual.unflatten(1, (side, old // side, side, old // side)).mean((2, 4)).flatten(1, 2)


def explained(host: VLM, visual: Float[Tensor, "r n c"], words: Int[Tensor, "r t"]) -> tuple[Tensor, ...]:
    """What was relevant for each answer, the answer, what the first layer's words and the last layer's last one pay."""
    n, t = visual.shape[1], words.shape[1]
    places = positions(host, n, t, visual.device)
    found, logits, weights = explain(host.lm, host.head, visual, host.word(words), places)
    paid = mean_paid(weights[0][:, :, n:, :n], words != 0)
    return found, logits.argmax(-1), paid, weights[-1][:, :, -1, :n].half()


def bank(host: VLM, scenes: int, side: int = 16, seed: int = TRAINED, size: int = 240) -> Bank:
    """The bank of so many scenes, read as side x side tokens: means of squares where that is fewer than the host's."""
    device = next(host.parameters()).device
    parts: list[tuple[Tensor, ...]] = []
    visual: list[Tensor] = []
    for start in range(0, scenes, size):
        drawn = pictures.render(min(size, scenes - start), seed=seed + start, device=device)
        asked = ask(drawn, SLOTS[:-1], seed=seed + start)
        with torch.no_grad():
            tokens = pooled(host.project(host.see(drawn.images)), side)
        which = asked.kind >= 0
        scene, words, answer = which.nonzero()[:, 0], asked.words[which], asked.answer[which][:, 0]
        for rows in torch.arange(len(scene), device=device).split(PART):
            found, said, paid, guide = explained(host, tokens[scene[rows]], words[rows])
            right = said == answer[rows]
            part = (words[rows], start + scene[rows], answer[rows], found, paid, guide)
            parts.append(tuple(value[right] for value in part))
        visual.append(tokens.half())
    return Bank(host, torch.cat(visual), *(torch.cat(part) for part in zip(*parts, strict=True)))
