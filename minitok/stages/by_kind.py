"""Rows of answers to questions of several kinds, and the table that sets them side by side."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from minitok.data.questions import KINDS
from minitok.stages import answers
from minitok.tables import aligned, shown

ASKED = KINDS[:10]
# How many questions of each kind the league asks of its 4,000 held-out scenes.
ON_SCENES = dict(zip(KINDS[:9], (4000, 3820, 3815, 4000, 1412, 1362, 1338, 1370, 2105), strict=True))


@dataclass(frozen=True)
class Row(answers.Row):
    """What is answered through a projector, question by question; `kinds` are indexes into `questions.KINDS`.

    `flops` is the language model's cost for one question as a share of that with 256 tokens, `own` the projector's
    cost as a share of the same.
    """

    kinds: Tensor = field(default_factory=lambda: torch.zeros(0))
    tokens: int = 256
    parameters: int = 0

    def of(self, kind: str) -> float:
        """Right answers to one kind of question, in percent; NaN where none was asked."""
        return 100 * float(self.correct[self.kinds == KINDS.index(kind)].float().mean())

    @property
    def even(self) -> float:
        """The mean of right answers over the kinds of question that were asked, in percent: each counts the same."""
        asked = [self.of(KINDS[i]) for i in self.kinds.unique().tolist()]
        return sum(asked) / len(asked)


def apart(ours: Mapping[str, float], other: Mapping[str, float]) -> float:
    """Twice the standard error, at most, of what two rows of the league differ by in the mean of the kinds, in points.

    >>> one, other = dict.fromkeys(ON_SCENES, 100.0), dict.fromkeys(ON_SCENES, 90.0)
    >>> round(apart(one, other), 2), round(apart(one, one), 2)
    (0.44, 0.0)

    For 4,000 scenes. The league keeps shares alone. Both rows answer the same questions, and one tells them apart only
    where one is right and the other wrong: at most where one of both is wrong, and where one of both is right.
    """
    variance = 0.0
    for kind, asked in ON_SCENES.items():
        a, b = ours[kind] / 100, other[kind] / 100
        variance += (min(a + b, 2 - a - b) - (a - b) ** 2) / asked
    return 200 * variance**0.5 / len(ON_SCENES)


def table(rows: Mapping[str, Row]) -> str:
    """Rows by their names, as text: tokens, right answers in all and by each kind that was asked, loyalty, costs."""
    asked = [kind for i, kind in enumerate(ASKED) if any(bool((row.kinds == i).any()) for row in rows.values())]
    head = ("", "tokens", "all kinds (%)", "loyal (%)", *asked, "LM cost (%)", "own cost (%)", "parameters")
    lines: list[tuple[str, ...]] = [head]
    for name, row in rows.items():
        each = (shown(row.of(kind)) for kind in asked)
        costs = shown(100 * row.flops), shown(100 * row.own), str(row.parameters)
        lines.append((name, str(row.tokens), shown(row.even), shown(row.loyal), *each, *costs))
    return aligned(lines)
