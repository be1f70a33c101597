"""What a question asks: for each kind, its object, the labels that name it and the answer, chosen at random.

Each function takes scenes and eight random numbers in [0, 1) a scene. `minitok.data.questions` puts it into words.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from minitok.data.clips import Clips
from minitok.data.objects import Objects, Scenes
from minitok.data.shapes import COLOURS, SHAPES
from minitok.data.wordings import CODES, NUMBERS, PLURALS, WAYS

RELATIONS = ("left", "right", "above", "below")
YES, NO, STOP = CODES["yes"], CODES["no"], CODES["."]
COLOUR, SHAPE, PLURAL = CODES[next(iter(COLOURS))], CODES[SHAPES[0]], CODES[PLURALS[0]]
NUMBER, DIGIT, WAY = CODES[NUMBERS[0]], CODES["0"], CODES[WAYS[0]]


class Asked(NamedTuple):
    """What one question of each scene is about: labels for the sentence, the answer's word, objects, if it can be."""

    colour: Int64[Tensor, " n"]
    shape: Int64[Tensor, " n"]
    answer: Int64[Tensor, " n"]
    first: Int64[Tensor, " n"]
    can: Bool[Tensor, " n"]
    second: Int64[Tensor, " n"] | None = None


def pick(mask: Bool[Tensor, "n m"], u: Float[Tensor, " n"]) -> Int64[Tensor, " n"]:
    """The place of one true value in each row, any of them by u in [0, 1); the first place where there is none.

    >>> pick(torch.tensor([[False, True, True], [False, False, False]]), torch.tensor([0.6, 0.2])).tolist()
    [2, 0]
    """
    count = mask.sum(1)
    rank = (u * count).long().minimum(count - 1) + 1
    return (mask & (mask.cumsum(1) == rank[:, None])).byte().argmax(1)


def at(values: Int64[Tensor, "n m"], place: Int64[Tensor, " n"]) -> Int64[Tensor, " n"]:
    """The value at one place of each row, a label's -1 as 0."""
    return values.gather(1, place[:, None])[:, 0].clamp(min=0)


def alone(scenes: Objects, *labels: Int64[Tensor, "n m"]) -> Bool[Tensor, "n m"]:
    """Which objects share all these labels with no other object of their scene."""
    same = scenes.present[:, :, None] & scenes.present[:, None]
    for label in labels:
        same = same & (label[:, :, None] == label[:, None])
    return same.sum(2) == 1


def exists(scenes: Objects, u: Float[Tensor, "n 8"]) -> Asked:
    """Whether an object of a colour and shape is there."""
    # Half of the time what is there; else with another colour, another shape, or both: mostly not there.
    chosen, regime = pick(scenes.present, u[:, 0]), u[:, 1]
    recoloured = (regime >= 0.5) & ((regime < 0.67) | (regime >= 0.83))
    colour = torch.where(recoloured, (u[:, 2] * len(COLOURS)).long(), at(scenes.colour, chosen))
    shape = torch.where(regime >= 0.67, (u[:, 3] * len(SHAPES)).long(), at(scenes.shape, chosen))
    match = scenes.present & (scenes.colour == colour[:, None]) & (scenes.shape == shape[:, None])
    there = match.any(1)
    first = torch.where(there, match.byte().argmax(1), -1)
    return Asked(colour, shape, torch.where(there, YES, NO), first, torch.ones_like(there))


def attribute(scenes: Objects, u: Float[Tensor, "n 8"], case: str) -> Asked:
    """The colour of the only object of its shape, the shape of the only one of its colour, or a digit or way."""
    if case == "motion" and not isinstance(scenes, Clips):
        raise ValueError("slots hold the kind 'motion', which can be asked of clips only")
    named = {"colour": (scenes.shape,), "shape": (scenes.colour,)}.get(case, (scenes.colour, scenes.shape))
    values = {"colour": scenes.colour, "shape": scenes.shape, "digit": scenes.glyph}
    value = scenes.way if isinstance(scenes, Clips) and case == "motion" else values[case]
    first = {"colour": COLOUR, "shape": SHAPE, "digit": DIGIT, "motion": WAY}[case]
    which = alone(scenes, *named) & (value >= 0)
    asked = pick(which, u[:, 0])
    return Asked(at(scenes.colour, asked), at(scenes.shape, asked), first + at(value, asked), asked, which.any(1))


def count(scenes: Objects, u: Float[Tensor, "n 8"], case: str) -> Asked:
    """How many objects there are, of a colour, of a shape or of any."""
    # A quarter of the colours and shapes asked for are any, so that there is often none of them.
    chosen, random = pick(scenes.present, u[:, 0]), u[:, 1] < 0.25
    colour = torch.where(random, (u[:, 2] * len(COLOURS)).long(), at(scenes.colour, chosen))
    shape = torch.where(random, (u[:, 2] * len(SHAPES)).long(), at(scenes.shape, chosen))
    match = scenes.present
    if case == "count of a colour":
        match = match & (scenes.colour == colour[:, None])
    elif case == "count of a shape":
        match = match & (scenes.shape == shape[:, None])
    return Asked(colour, shape, NUMBER + match.sum(1), torch.full_like(colour, -1), scenes.present.any(1))


def relation(scenes: Scenes | Clips, u: Float[Tensor, "n 8"], which: Int64[Tensor, " n"]) -> Asked:
    """Whether one object stands left of another, right of, above or below: `which` of `RELATIONS` in each scene.

    Two that are less than a sixteenth of the picture apart in that direction, a patch, are not asked about.
    """
    one = alone(scenes, scenes.colour, scenes.shape)
    along = torch.where((which < 2)[:, None], scenes.centre[..., 0], scenes.centre[..., 1])
    ahead = along[:, None] - along[:, :, None]  # n first second
    pairs = (one[:, :, None] & one[:, None] & (ahead.abs() >= scenes.images.shape[-1] / 16)).flatten(1)
    pair, m = pick(pairs, u[:, 0]), one.shape[1]
    first, second = pair // m, pair % m
    yes = (ahead.flatten(1).gather(1, pair[:, None])[:, 0] > 0) ^ (which % 2 == 1)
    answer = torch.where(yes, YES, NO)
    return Asked(at(scenes.colour, first), at(scenes.shape, first), answer, first, pairs.any(1), second)


def caption(scenes: Objects) -> Int64[Tensor, "n a"]:
    """Four words an object from left to right: "a red circle , an orange star and a blue ring ."."""
    n, m = scenes.present.shape
    order = scenes.centre[..., 0].masked_fill(~scenes.present, torch.inf).argsort(dim=1, stable=True)
    colour, shape = scenes.colour.gather(1, order).clamp(min=0), scenes.shape.gather(1, order).clamp(min=0)
    rest = scenes.present.sum(1, keepdim=True) - torch.arange(1, m + 1, device=order.device)
    link = torch.where(rest == 1, CODES["and"], torch.where(rest == 0, STOP, CODES[","]))
    words = torch.stack([article(colour), COLOUR + colour, SHAPE + shape, link], 2)
    return words.where(rest[:, :, None] >= 0, 0).flatten(1)


def article(colour: Int64[Tensor, "*n"]) -> Int64[Tensor, "*n"]:
    """ "a", or "an" before orange."""
    return torch.where(colour == list(COLOURS).index("orange"), CODES["an"], CODES["a"])


def about(scenes: Scenes | Clips, u: Float[Tensor, "n 8"], case: str) -> Asked:
    """One question of a case of `wordings.CASES` to each scene."""
    if case == "exists":
        return exists(scenes, u)
    if case in RELATIONS:
        return relation(scenes, u, torch.full_like(scenes.shape[:, 0], RELATIONS.index(case)))
    if case == "caption":
        none = torch.full_like(scenes.shape[:, 0], -1)
        return Asked(none + 1, none + 1, none, none, scenes.present.any(1))
    return count(scenes, u, case) if case.startswith("count") else attribute(scenes, u, case)


def drawn(scenes: Scenes | Clips, u: Float[Tensor, "n 8"], cases: list[str], which: Int64[Tensor, " n"]) -> Asked:
    """To each scene the question of one case: that of number `which`."""
    if set(cases) <= set(RELATIONS):
        return relation(scenes, u, torch.tensor([RELATIONS.index(case) for case in cases], device=u.device)[which])
    parts = [about(scenes, u, case) for case in cases]

    def chosen(name: str) -> Tensor:
        values = [getattr(part, name) for part in parts]
        filled = [torch.full_like(parts[0].first, -1) if value is None else value for value in values]
        return torch.stack(filled, 1).gather(1, which[:, None])[:, 0]

    return Asked(*map(chosen, Asked._fields))
