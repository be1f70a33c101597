"""Measures: one figure of ours beside the baseline's, by how much it has to differ, and what that says."""

import math
import numbers
from dataclasses import dataclass
from typing import SupportsFloat

from minitok.tables import shown

BETTER, NOT_WORSE = "better", "not worse"
TOLERANCE = 0.02


@dataclass(frozen=True)
class Measure:
    """One figure of ours beside the baseline's and the paper's; made by `better` or `not_worse`.

    `margin` is by how much ours must be better (kind `better`) or may be worse (kind `not worse`), `tolerance` how far
    a figure may move when it is measured again, both in `unit`; None: 2 % of the figure. `paper` is the paper's own
    figure with its place ("27.2 dB, table 1"), or None where the paper gives none.
    """

    name: str
    ours: int | float
    baseline: int | float
    kind: str = BETTER
    margin: int | float = 0.0
    unit: str = ""
    higher: bool = True
    paper: str | None = None
    tolerance: int | float | None = None

    @property
    def says(self) -> str:
        """`yes` or `no`, or `undecided` where the tolerance is enough to tip the answer over.

        >>> [better("right", ours, than=80, margin=2, tolerance=1).says for ours in (84, 83, 82, 81, 80)]
        ['yes', 'undecided', 'undecided', 'undecided', 'no']
        """
        gain = self.ours - self.baseline if self.higher else self.baseline - self.ours
        needed = self.margin if self.kind == BETTER else -self.margin
        level = math.isclose(gain, needed, abs_tol=1e-12)
        slack = max(self.slack(self.ours), self.slack(self.baseline))
        if slack > 0 and (level or _within(gain, needed, slack)):
            return "undecided"
        return "yes" if (self.kind == NOT_WORSE if level else gain > needed) else "no"

    @property
    def holds(self) -> bool:
        """Whether it says yes: what is undecided does not count as held."""
        return self.says == "yes"

    @property
    def asked(self) -> str:
        """What is asked of ours, in words: `better by more than 2`, `not worse by more than 3`."""
        return f"{self.kind} by more than {self.margin:g}" if self.margin else self.kind

    def slack(self, figure: int | float) -> int | float:
        """How far that figure, ours or the baseline's, may move when it is measured again."""
        return TOLERANCE * abs(figure) if self.tolerance is None else self.tolerance

    def changes(self, before: "Measure") -> list[str]:
        """What the same measure said otherwise `before`, in words; nothing where it lies within the tolerance."""
        if (self.asked, self.higher, self.unit) != (before.asked, before.higher, before.unit):
            return [f"{self.name}: asks for {self.asked} now, for {before.asked} in the record"]
        pairs = (("ours", self.ours, before.ours), ("the baseline", self.baseline, before.baseline))
        found = [
            f"{self.name}: {who} is {shown(now)} now, {shown(then)} in the record"
            for who, now, then in pairs
            if not _within(now, then, before.slack(then))
        ]
        if {self.says, before.says} == {"yes", "no"}:
            found.append(f"{self.name}: says {self.says} now, {before.says} in the record")
        return found


def better(
    name: str,
    ours: SupportsFloat,
    *,
    than: SupportsFloat,
    margin: int | float,
    unit: str = "",
    higher: bool = True,
    paper: str | None = None,
    tolerance: int | float | None = None,
) -> Measure:
    """A measure that holds when `ours` is better than the baseline's by more than `margin` (in `unit`, at least 0).

    `higher=False`: less is better. A whole number is kept as it is, any other at three significant digits; they are
    judged as kept. `tolerance`, in `unit`, is how far the figures may move when this is measured again elsewhere
    (default: 2 % of each): a lead within it of the margin is undecided, and does not count.

    >>> better("PSNR", 27.2419, than=24.1, margin=0.5, unit="dB").says
    'yes'
    >>> better("PSNR", 27.24, than=27.1, margin=0, unit="dB").says
    'undecided'
    >>> better("calls", 64, than=64, margin=0, higher=False, tolerance=0).says
    'no'

    Raises `ValueError` for a figure that is not finite, for a margin or tolerance below 0, and for yes or no in place
    of a figure: an identity is an assert beside the verdict.
    """
    return _measure(BETTER, name, (ours, than, margin), unit, higher, paper, tolerance)


def not_worse(
    name: str,
    ours: SupportsFloat,
    *,
    than: SupportsFloat,
    by: int | float,
    unit: str = "",
    higher: bool = True,
    paper: str | None = None,
    tolerance: int | float | None = None,
) -> Measure:
    """A measure that holds when `ours` is worse than the baseline's by at most `by` (in `unit`, at least 0).

    It says less than `better`, and is shown by its own name. The other arguments are those of `better`.

    >>> not_worse("right", 81.1, than=82.0, by=3, unit="%").says
    'yes'
    """
    return _measure(NOT_WORSE, name, (ours, than, by), unit, higher, paper, tolerance)


def _measure(
    kind: str,
    name: str,
    figures: tuple[SupportsFloat, SupportsFloat, SupportsFloat],
    unit: str,
    higher: bool,
    paper: str | None,
    tolerance: int | float | None,
) -> Measure:
    labels = ("ours", "than", "margin" if kind == BETTER else "by")
    ours, baseline, margin = (_figure(name, *pair) for pair in zip(labels, figures, strict=True))
    if tolerance is not None:
        tolerance = _figure(name, "tolerance", tolerance)
    for label, value in ((labels[2], margin), ("tolerance", tolerance or 0)):
        if value < 0:
            raise ValueError(f"{label}={value} of the measure {name!r} is below 0; `not_worse` lets ours be worse")
    return Measure(name, ours, baseline, kind, margin, unit, higher, paper, tolerance)


def _figure(name: str, argument: str, given: SupportsFloat) -> int | float:
    if isinstance(given, bool):
        raise ValueError(f"{argument}={given} of the measure {name!r} is no figure: assert it beside the verdict")
    value = int(given) if isinstance(given, numbers.Integral) else float(f"{float(given):.3g}")
    if not math.isfinite(value):
        raise ValueError(f"{argument}={value} of the measure {name!r} is not finite")
    return value


def _within(a: int | float, b: int | float, slack: int | float) -> bool:
    return abs(a - b) <= slack or math.isclose(abs(a - b), slack)
