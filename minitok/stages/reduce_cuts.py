"""The house's vlm cut open: what comes before a cut is computed once, so each reduction pays for what comes after.

The visual tokens of a picture stand before the words of all its questions, which do not see one another. A cut is
before the language model, or between the attention and the feed-forward part of one of its layers (0: the first).
`after(cut.left(reduction), layer)` is the next one: so tokens may go at several.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import cast

import torch
from jaxtyping import Float, Int
from torch import Tensor

from minitok.nn import Block
from minitok.reduce import Kept, Reduction
from minitok.reduce.corematching import activations
from minitok.reduce.explain_compress import of_first_layer
from minitok.vlm import VLM, slots_apart

# What a method may ask for that differs from question to question of one picture.
ASKING = ("paid", "payments", "text", "asked", "first_attention", "neurons", "word_neurons")
# What is forgotten when tokens go, since each layer has its own, and what is not the tokens'.
PASSING = ("keys", "attention", "paid", "payments", "first_attention", "neurons", "word_neurons")
WORDS = ("text", "asked")


@dataclass(frozen=True, eq=False)
class Cut:
    """Hidden states at a cut, visual tokens first, and what a method may ask for there.

    `signals` are those of the visual tokens by name, a row a picture; `attention` is that of the layer with its words
    (none before the language model); `slots` numbers the question of each word; `size` says how many tokens each
    stands for once some were merged, unless all count once and nothing shall `weigh` more; `patches` says which ones
    the visual tokens are until then. All of them are those of so many `pictures`, one after another.
    """

    host: VLM
    layer: int | None
    hidden: Float[Tensor, "b m c"]
    places: Float[Tensor, "#b m"]
    words: Int[Tensor, "b w"]
    slots: Int[Tensor, " w"]
    signals: Mapping[str, Tensor] = field(default_factory=dict)
    attention: Float[Tensor, "b h m m"] | None = None
    size: Float[Tensor, "b m"] | None = None
    patches: Int[Tensor, "b n"] | None = None
    weigh: bool = True
    pictures: int = 1

    @property
    def visual(self) -> Float[Tensor, "b n c"]:
        """The visual tokens as they are at the cut."""
        return self.hidden[:, : -len(self.slots)]

    @property
    def seen(self) -> Tensor:
        """Who sees whom, and how much more a merged token weighs in the attention, as in `Transformer`."""
        seen = slots_apart(self.visual.shape[1], self.slots)
        return seen if self.size is None else self.size.log()[:, None, None].masked_fill(~seen, -torch.inf)

    def alone(self, rows: Int[Tensor, "r 2"], names: Collection[str]) -> "Cut":
        """A row for each (picture, question), with those signals of these `names` that are known, among them its own.

        `paid` (r h m n): what its m tokens, the visual ones and then its words, pay to the visual ones; `payments`
        (r h m m): to all m; `text` (r t c): its words, embedded; `asked` (r t): which of them are words and not
        filling; `neurons` (r n f) and `word_neurons` (r t f): what fires in the layer's feed-forward part; before
        the language model `first_attention` (r h t n): what its words will pay to the visual tokens in the first layer.
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
        if self.attention is not None and "payments" in names:
            pairs = picture[:, None, None], slice(None), index[:, :, None], index[:, None]
            signals["payments"] = self.attention[pairs].permute(0, 3, 1, 2)
        hidden = self.hidden[picture[:, None], index]
        places = self.places.expand(len(self.hidden), -1)[picture, : n + t]
        if self.layer is not None and {"neurons", "word_neurons"} & {*names}:
            block = cast("Block", self.host.lm.blocks[self.layer])
            fired = activations(block.mlp, block.norm2(hidden))
            signals |= {"neurons": fired[:, :n], "word_neurons": fired[:, n:]}
        if self.layer is None and "first_attention" in names:
            signals["first_attention"] = of_first_layer(self.host.lm, hidden[:, :n], hidden[:, n:], places)
        return replace(
            self,
            hidden=hidden,
            places=places,
            words=words,
            slots=self.slots[:t],
            signals=signals,
            attention=None,
            size=None if self.size is None else self.size[picture[:, None], index],
            patches=None if self.patches is None else self.patches[picture],
        )

    def left(self, reduction: Reduction) -> "Cut":
        """The same cut with what a reduction leaves of its visual tokens.

        Kept tokens keep their places and merged ones stand between theirs. What was known of a token before the layer
        is known on of the one in whose `order` it stands.
        """
        kept, order, size = reduction.beside(0, len(self.slots)), reduction.order, self.size
        if size is not None or (self.weigh and not isinstance(reduction, Kept)):
            size = kept.sizes(torch.ones_like(self.hidden[..., 0]) if size is None else size)
        signals = {name: signal for name, signal in self.signals.items() if name not in PASSING}
        for name in signals.keys() - {"size", *WORDS}:
            signals[name] = taken(signals[name], order)
        if "size" in signals:
            signals["size"] = reduction.sizes(signals["size"])
        return replace(
            self,
            hidden=kept.apply(self.hidden),
            places=kept.apply(self.places.expand(len(self.hidden), -1)[..., None])[..., 0],
            signals=signals,
            attention=None,
            size=size,
            patches=self.patches.gather(1, order) if isinstance(reduction, Kept) and self.patches is not None else None,
        )

    def answers(self, reduction: Reduction | None = None) -> Float[Tensor, "b q v"]:
        """The logits of all answers when the rest of the model reads the reduced tokens, or all that are there."""
        return self.host.head((self if reduction is None else self.left(reduction)).ends())

    def ends(self) -> Float[Tensor, "b q c"]:
        """What the language model makes of the last word of each question, from which the head reads the answer."""
        x, blocks = self.begun()
        for block in blocks:
            x = block(x, self.places, self.seen)
        t = int((self.slots == 0).sum())
        return self.host.lm.norm(x)[:, self.visual.shape[1] + t - 1 :: t]

    def begun(self) -> tuple[Float[Tensor, "b m c"], list[Block]]:
        """The hidden states behind the layer of the cut, and the layers that are left."""
        blocks = cast("list[Block]", list(self.host.lm.blocks))
        if self.layer is None:
            return self.hidden, blocks
        block = blocks[self.layer]
        return self.hidden + block.mlp(block.norm2(self.hidden)), blocks[self.layer + 1 :]


def taken(signal: Float[Tensor, "b *any n"], order: Int[Tensor, "b k"]) -> Float[Tensor, "b *any k"]:
    """A signal of those tokens, which are its last axis.

    >>> taken(torch.tensor([[[5.0, 6.0, 7.0]]]), torch.tensor([[0, 2]])).tolist()
    [[[5.0, 7.0]]]
    """
    index = order.view(len(order), *[1] * (signal.dim() - 2), order.shape[1])
    return signal.gather(-1, index.expand(*signal.shape[:-1], -1))


def before(
    host: VLM,
    visual: Float[Tensor, "b n c"],
    questions: Int[Tensor, "b q t"],
    signals: Mapping[str, Tensor],
    pictures: int = 1,
) -> Cut:
    """The cut before the language model, with what is known of the visual tokens there."""
    _, q, t = questions.shape
    (b, n, _), device = visual.shape, questions.device
    slots = torch.arange(q, device=device).repeat_interleave(t)
    words = host.patches + torch.arange(t, device=visual.device, dtype=visual.dtype).repeat(q)[None]
    places = torch.cat([host.places(n, visual.device), words], 1)
    hidden, patches = torch.cat([visual, host.word(questions.flatten(1))], 1), torch.arange(n, device=device)
    asked, more = questions.flatten(1), {"patches": patches.expand(b, -1), "pictures": pictures}
    return Cut(host, None, hidden, places, asked, slots, signals, **more)


def after(cut: Cut, layer: int) -> Cut:
    """The cut after the attention of a layer, from one before it.

    `keys` and `attention` are then those of the layer; what the vision encoder knew is still there. Raises `ValueError`
    for a layer that the language model does not have, or that is not behind the cut.
    """
    blocks = cast("list[Block]", cut.host.lm.blocks)
    first = 0 if cut.layer is None else cut.layer + 1
    if not first <= layer < len(blocks):
        raise ValueError(f"layer={layer} came, expected {first} to {len(blocks) - 1}")
    n, seen, found = cut.visual.shape[1], cut.seen, {}

    def look(x: Tensor, normed: Tensor) -> Tensor:
        attention = blocks[layer].attention
        found["attention"], found["keys"] = attention.map(normed, cut.places, seen)
        found["hidden"] = x
        return x

    x, _ = cut.begun()
    for block in blocks[first:layer]:
        x = block(x, cut.places, seen)
    blocks[layer](x, cut.places, seen, between=look)
    own = {"keys": found["keys"][:, :, :n], "attention": found["attention"][:, :, :n, :n]}
    signals = {**cut.signals, **own}
    return replace(cut, layer=layer, hidden=found["hidden"], signals=signals, attention=found["attention"])
