"""The house's vlm cut at one place: what comes before is computed once, so each reduction pays for what comes after.

The visual tokens of a picture stand before the words of all its questions, which do not see one another. A cut is
before the language model, or between the attention and the feed-forward part of one of its layers (0: the first).
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import cast

import torch
from jaxtyping import Float, Int
from torch import Tensor

from minitok.nn import Block
from minitok.reduce import Kept, Reduction
from minitok.vlm import VLM, slots_apart

# What a method may ask for that differs from question to question of one picture.
ASKING = ("paid", "text", "asked")


@dataclass(frozen=True, eq=False)
class Cut:
    """Hidden states at a cut, visual tokens first, and what a method may ask for there.

    `signals` are those of the visual tokens by name, a row a picture; `attention` is that of the layer with its words
    (none before the language model); `slots` numbers the question of each word.
    """

    host: VLM
    layer: int | None
    hidden: Float[Tensor, "b m c"]
    places: Float[Tensor, "1 m"]
    words: Int[Tensor, "b w"]
    slots: Int[Tensor, " w"]
    signals: Mapping[str, Tensor] = field(default_factory=dict)
    attention: Float[Tensor, "b h m m"] | None = None

    @property
    def visual(self) -> Float[Tensor, "b n c"]:
        """The visual tokens as they are at the cut."""
        return self.hidden[:, : -len(self.slots)]

    def alone(self, rows: Int[Tensor, "r 2"], names: Collection[str]) -> "Cut":
        """A row for each (picture, question), with those signals of these `names` that are known, among them its own.

        `paid` (r h m n): what its m tokens, the visual ones and then its words, pay to the visual ones; `text` (r t c):
        its words, embedded; `asked` (r t): which of them are words and not filling.
        """
        (picture, slot), n = rows.unbind(1), self.visual.shape[1]
        t = int((self.slots == 0).sum())
        own = n + slot[:, None] * t + torch.arange(t, device=slot.device)
        index = torch.cat([torch.arange(n, device=slot.device).expand(len(rows), -1), own], 1)
        words = self.words[picture].gather(1, own - n)
        signals = {name: signal[picture] for name, signal in self.signals.items() if name in names}
        signals |= {"text": self.host.word(words), "asked": words != 0}
        if self.attention is not None and "paid" in names:
            signals["paid"] = self.attention[picture[:, None], :, index, :n].transpose(1, 2)
        hidden = self.hidden[picture[:, None], index]
        places = self.places[:, : n + t]
        return Cut(self.host, self.layer, hidden, places, words, self.slots[:t], signals)

    def answers(self, reduction: Reduction) -> Float[Tensor, "b q v"]:
        """The logits of all answers when the rest of the model reads the reduced tokens.

        Kept tokens keep their places and merged ones stand between theirs; a merged token weighs in the attention by
        its size, as in `Transformer`.
        """
        k, kept = reduction.shape[1], reduction.beside(0, len(self.slots))
        x = kept.apply(self.hidden)
        places = kept.apply(self.places.expand(len(x), -1)[..., None])[..., 0]
        seen = slots_apart(k, self.slots)
        if not isinstance(reduction, Kept):
            size = kept.sizes(torch.ones_like(self.hidden[..., 0])).log()[:, None, None]
            seen = size.masked_fill(~seen, -torch.inf)
        blocks = cast("list[Block]", self.host.lm.blocks)
        if self.layer is not None:
            block = blocks[self.layer]
            x, blocks = x + block.mlp(block.norm2(x)), blocks[self.layer + 1 :]
        for block in blocks:
            x = block(x, places, seen)
        t = int((self.slots == 0).sum())
        return self.host.head(self.host.lm.norm(x)[:, k + t - 1 :: t])


def before(
    host: VLM, visual: Float[Tensor, "b n c"], questions: Int[Tensor, "b q t"], signals: Mapping[str, Tensor]
) -> Cut:
    """The cut before the language model, with what is known of the visual tokens there."""
    _, q, t = questions.shape
    slots = torch.arange(q, device=questions.device).repeat_interleave(t)
    words = host.patches + torch.arange(t, device=visual.device, dtype=visual.dtype).repeat(q)[None]
    places = torch.cat([host.places(visual.shape[1], visual.device), words], 1)
    hidden = torch.cat([visual, host.word(questions.flatten(1))], 1)
    return Cut(host, None, hidden, places, questions.flatten(1), slots, signals)


def after(start: Cut, layer: int) -> Cut:
    """The cut after the attention of one layer, from that before the language model.

    `keys` and `attention` are then those of the layer; what the vision encoder knew is still there. Raises `ValueError`
    for a layer that the language model does not have.
    """
    blocks = cast("list[Block]", start.host.lm.blocks)
    if not 0 <= layer < len(blocks):
        raise ValueError(f"layer={layer} came, expected 0 to {len(blocks) - 1}")
    n, seen, found = start.visual.shape[1], slots_apart(start.visual.shape[1], start.slots), {}

    def look(x: Tensor, normed: Tensor) -> Tensor:
        attention = blocks[layer].attention
        found["attention"], found["keys"] = attention.map(normed, start.places, seen)
        found["hidden"] = x
        return x

    x = start.hidden
    for block in blocks[:layer]:
        x = block(x, start.places, seen)
    blocks[layer](x, start.places, seen, between=look)
    own = {"keys": found["keys"][:, :, :n], "attention": found["attention"][:, :, :n, :n]}
    signals = {**start.signals, **own}
    return replace(start, layer=layer, hidden=found["hidden"], signals=signals, attention=found["attention"])
