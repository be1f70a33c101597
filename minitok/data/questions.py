"""Questions about scenes, with their answers and the object that each asks for, made as tensors on any device.

What: eleven kinds of questions in ten wordings each: is it there, colour, shape, count, four relations, a digit to
read, a caption, and, of clips, which way something moves. A question is only asked where it has one answer: "the
circle" where there is one circle.
How many: as many as there are scenes, times the slots asked for. Licence: ours, like the rest of the project.
"""

from dataclasses import dataclass, fields
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from minitok.data.asked import COLOUR, PLURAL, RELATIONS, SHAPE, STOP, article, at, caption, drawn
from minitok.data.clips import Clips
from minitok.data.objects import Scenes, uniform
from minitok.data.wordings import CASES, HELD_OUT, fill

KINDS = ("exists", "colour", "shape", "count", "left", "right", "above", "below", "digit", "motion", "caption")
# What is asked of one scene in training: of a slot with several kinds one is drawn.
SLOTS = (("exists",), ("colour",), ("shape",), ("count",), RELATIONS, RELATIONS, ("digit",), ("caption",))
WORDINGS = {"seen": (0, 10 - HELD_OUT), "held out": (10 - HELD_OUT, HELD_OUT), "all": (0, 10)}


@dataclass(frozen=True)
class Questions:
    """Rows of word numbers (`wordings.decode` says them) and what is known of each; index it like a tensor.

    `words` is filled in front, so that the last word stands last; `answer` goes on from there: a word and a full
    stop, or a caption of four words an object. `kind` is an index into `KINDS`, -1 where a slot's question has no
    answer in its scene: `questions[questions.kind >= 0]` are the rows that count. `first` and `second` are the slots
    of the objects asked for in `Scenes`, -1 for none (an object that is not there, a count, a caption).
    """

    words: Int64[Tensor, "*b t"]
    answer: Int64[Tensor, "*b a"]
    kind: Int64[Tensor, "*b"]
    scene: Int64[Tensor, "*b"]
    first: Int64[Tensor, "*b"]
    second: Int64[Tensor, "*b"]

    def __getitem__(self, index: Any) -> "Questions":
        return Questions(*(getattr(self, field.name)[index] for field in fields(self)))


def _slot(
    scenes: Scenes | Clips, kinds: tuple[str, ...], u: Float[Tensor, "n 8"], wording: Int64[Tensor, " n"]
) -> list[Tensor]:
    """One question of each scene, of kinds drawn from some: words, answer, kind, first and second object."""
    cases = [case for case in CASES for kind in kinds if case.split()[0] == kind]
    which = (u[:, 7] * len(cases)).long()
    colour, shape, answer, first, can, second = drawn(scenes, u, cases, which)
    second = torch.full_like(first, -1) if second is None else second
    colour2, shape2 = at(scenes.colour, second.clamp(min=0)), at(scenes.shape, second.clamp(min=0))
    blanks = [article(colour), COLOUR + colour, SHAPE + shape, PLURAL + shape, COLOUR + colour2, SHAPE + shape2]
    case = torch.tensor([CASES.index(case) for case in cases], device=u.device)[which]
    kind = torch.tensor([KINDS.index(case.split()[0]) for case in cases], device=u.device)[which]
    said = answer.new_zeros(len(answer), 4 * scenes.shape.shape[1])
    said[:, 0], said[:, 1] = answer, STOP
    if "caption" in kinds:
        said = torch.where((kind == KINDS.index("caption"))[:, None], caption(scenes), said)
    first, second = torch.where(can, first, -1), torch.where(can, second, -1)
    return [fill(case, wording, torch.stack(blanks, 1)), said, torch.where(can, kind, -1), first, second]


def ask(
    scenes: Scenes | Clips, slots: tuple[tuple[str, ...], ...] = SLOTS, *, seed: int = 0, wordings: str = "seen"
) -> Questions:
    """One question a scene and slot (n, slots, ...), in wordings that are `seen` in training, `held out`, or `all`.

    The question of scene i depends on `seed`, i, the slots and the scene, not on n or the device.
    Raises `ValueError` for a kind that is not among `KINDS` and for other `wordings`.
    """
    if unknown := {kind for slot in slots for kind in slot} - set(KINDS):
        raise ValueError(f"slots hold the kind {unknown.pop()!r}; there are {', '.join(KINDS)}")
    if wordings not in WORDINGS:
        raise ValueError(f"wordings={wordings!r} is not one of {', '.join(WORDINGS)}")
    n, (start, count) = len(scenes.present), WORDINGS[wordings]
    u = uniform(n, 9 * len(slots), seed + 2**40, scenes.images.device).view(n, len(slots), 9)
    wording = start + (u[..., 8] * count).long()
    made = [_slot(scenes, kinds, u[:, i, :8], wording[:, i]) for i, kinds in enumerate(slots)]
    words, answer, kind, first, second = (torch.stack(parts, 1) for parts in zip(*made, strict=True))
    scene = torch.arange(n, device=kind.device)[:, None].expand_as(kind)
    return Questions(words, answer, kind, scene, first, second)
