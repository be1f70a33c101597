"""Rows of answers to questions with fewer visual tokens: right by kind, loyal, moved, and was the object kept?"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from minitok.data.asked import RELATIONS
from minitok.data.questions import Questions
from minitok.reduce import Kept, Reduction
from minitok.stages import answers, by_kind
from minitok.tables import aligned, shown

# What a method looks at besides the tokens, in words, by the names of its parameters.
NEEDS = {
    "attention": "attention", "paid": "attention, text", "middle": "attention", "deep": "attention",
    "payments": "attention, text",
    "cls_attention": "CLS", "cls_first": "CLS", "keys": "keys", "text": "text", "asked": "text",
    "first_attention": "attention, text", "neurons": "neurons", "word_neurons": "neurons, text",
}  # fmt: skip
R = TypeVar("R", bound=answers.Row)
KINDS = ("exists", "colour", "shape", "count", "relations", "digit")


@dataclass(frozen=True)
class Row(by_kind.Row):
    """What is answered with fewer visual tokens, question by question.

    `recall` is the share of the asked object's pixels that lie in kept patches, NaN where no object is asked for and
    where patches were merged; `scene` is each question's picture, `needs` what the method looks at.
    """

    recall: Tensor = field(default_factory=lambda: torch.zeros(0))
    scene: Tensor = field(default_factory=lambda: torch.zeros(0))
    needs: str = ""

    @property
    def found(self) -> float:
        """How much of the object asked for is in kept patches, in percent; NaN for methods that merge."""
        return 100 * float(self.recall.nanmean())

    def kind(self, name: str) -> float:
        """Right answers to one kind of question, or to the four relations, in percent."""
        kinds = RELATIONS if name == "relations" else (name,)
        return sum(map(self.of, kinds)) / len(kinds)


def needs(names: Sequence[str]) -> str:
    """What a method looks at, from the names of its parameters.

    >>> needs(["x", "k", "paid", "keys"])
    'attention, keys, text'
    """
    words = {word for name in names if name in NEEDS for word in NEEDS[name].split(", ")}
    return ", ".join(sorted(words)) or "nothing"


def asked_pixels(masks: Bool[Tensor, "b m H W"], asked: Questions) -> Bool[Tensor, "r H W"]:
    """The pixels that show the objects that questions ask for: for a relation both, for a count none."""
    first, second = (
        masks[asked.scene, slot.clamp(min=0)] & (slot >= 0)[:, None, None] for slot in (asked.first, asked.second)
    )
    return first | second


def held(reduction: Reduction, objects: Bool[Tensor, "r H W"], rows: Tensor, patch: int = 4) -> Float[Tensor, "r"]:
    """The share of each object's pixels in kept patches; row `rows[i]` of the reduction is that of object i.

    NaN where an object has no pixel, and for all where tokens are merged or mixed: nothing is dropped there.
    """
    if not isinstance(reduction, Kept):
        return torch.full((len(rows),), torch.nan)
    b, n = len(reduction.indices), reduction.tokens
    kept = torch.zeros(b, n, device=objects.device).scatter(1, reduction.indices, 1.0)[rows]
    pixels = objects.unflatten(1, (-1, patch)).unflatten(3, (-1, patch)).sum((2, 4)).flatten(1).float()
    return (kept * pixels).sum(1) / pixels.sum(1)


def mean(rows: Sequence[R]) -> R:
    """The mean of several rows over the same photographs or questions, such as draws of lots."""
    names = [name for name in ("correct", "same", "bits", "recall") if hasattr(rows[0], name)]
    means = {name: torch.stack([getattr(row, name).float() for row in rows]).mean(0) for name in names}
    return replace(rows[0], **means)


def gap(ours: answers.Row, other: answers.Row, of: str = "bits") -> tuple[float, float]:
    """By how much the other's mean of `bits`, `correct`, `same` or `recall` is above ours, and twice its error.

    Photographs or questions are the same, so the error is that of the differences. Questions about one scene are no
    independent samples, so scenes are what is counted.
    """
    apart = getattr(other, of).double() - getattr(ours, of).double()
    there = ~apart.isnan()
    scene = ours.scene if isinstance(ours, Row) else torch.arange(len(apart))
    apart, scene = apart[there], scene[there].unique(return_inverse=True)[1]
    sums = torch.zeros(count := int(scene.max()) + 1, dtype=torch.double).index_add(0, scene, apart - apart.mean())
    return float(apart.mean()), 2 * (count / (count - 1) * float(sums.square().sum())) ** 0.5 / len(apart)


def table(rows: Mapping[str, Row]) -> str:
    """Rows by their names, as text.

    Right answers are the mean over kinds of question; `bits` is how far the answers moved, `object` how much of the
    object asked for was kept, `FLOPs` the language model's, `own` the method's, both as shares of all tokens' FLOPs.
    """
    head = ("", "tokens", "right %", *KINDS, "loyal %", "bits", "object %", "FLOPs %", "own %", "needs")
    lines: list[tuple[str, ...]] = [head]
    for name, row in rows.items():
        figures = (row.even, *map(row.kind, KINDS), row.loyal, row.moved, row.found, 100 * row.flops, 100 * row.own)
        cells = ("-" if math.isnan(figure) else shown(figure) for figure in figures)
        lines.append((name, str(row.tokens), *cells, row.needs))
    return aligned(lines)
