"""Verdicts: what a notebook measured, the baseline, the paper's own figure, and whether the claim holds."""

import json
import math
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, SupportsFloat

from minitok import files
from minitok.course import registry
from minitok.viz.tables import aligned, shown


@dataclass(frozen=True)
class Measure:
    """One figure of ours beside the baseline's and the paper's; made by `better` or `exact`.

    `ours` is a bool, and `baseline` None, where a property either holds or does not. `paper` is the paper's
    own figure with its place ("27.2 dB, table 1"), or None where the paper gives none.
    """

    name: str
    ours: int | float | bool
    baseline: int | float | None = None
    unit: str = ""
    higher: bool = True
    margin: int | float = 0.0
    paper: str | None = None

    @property
    def holds(self) -> bool:
        """Whether ours beats the baseline by more than the margin, or the property holds."""
        if self.baseline is None:
            return bool(self.ours)
        gain = self.ours - self.baseline if self.higher else self.baseline - self.ours
        return gain > self.margin and not math.isclose(gain, self.margin)


@dataclass(frozen=True)
class Verdict:
    """A claim, its measures, the baseline they are taken against and the data. `str` gives a plain table."""

    slug: str
    claim: str
    measures: tuple[Measure, ...]
    against: str
    data: str

    @property
    def outcome(self) -> str:
        """`holds` when all measures hold, `holds in part` when some, else `does not hold at this scale`."""
        held = [measure.holds for measure in self.measures]
        if all(held):
            return "holds"
        return "holds in part" if any(held) else "does not hold at this scale"

    def __str__(self) -> str:
        lines = [("measure", "ours", "baseline", "holds", "the paper's own figure")]
        for measure in self.measures:
            unit = f" ({measure.unit})" if measure.unit else ""
            baseline = "-" if measure.baseline is None else shown(measure.baseline)
            own = measure.paper or "the paper gives none"
            lines.append((measure.name + unit, shown(measure.ours), baseline, shown(measure.holds), own))
        facts = f"Claim: {self.claim}\nAgainst: {self.against}\nData: {self.data}"
        return f"{facts}\n\n{aligned(lines)}\n\nVerdict: {self.outcome}"


def better(
    name: str,
    ours: SupportsFloat,
    *,
    than: SupportsFloat,
    unit: str = "",
    higher: bool = True,
    margin: int | float = 0.0,
    paper: str | None = None,
) -> Measure:
    """A measure that holds when `ours` is better than the baseline's by more than `margin` (in `unit`).

    `higher=False`: less is better. A negative margin allows ours to be worse by less than that. An int is
    kept as it is, any other number at three significant digits; they are judged as kept.

    >>> better("PSNR", 27.2419, than=24.1, unit="dB").ours, better("calls", 64, than=64, higher=False).holds
    (27.2, False)

    Raises `ValueError` for a figure that is not finite.
    """
    kept, baseline = _figure(name, "ours", ours), _figure(name, "than", than)
    return Measure(name, kept, baseline, unit, higher, _figure(name, "margin", margin), paper)


def exact(name: str, holds: bool, *, paper: str | None = None) -> Measure:
    """A measure of a property that either holds or does not.

    >>> exact("tokens identical", True).holds
    True
    """
    return Measure(name, bool(holds), paper=paper)


def verdict(slug: str, claim: str, measures: Sequence[Measure], *, against: str, data: str) -> Verdict:
    """Computes and prints the verdict of a lesson; the build of the course also records it.

    Under `MINITOK_RECORD=1` (set by `python do.py notebooks`) it is written to `data/verdicts/<slug>.json`
    with the hash of the lesson's source. Any other run leaves the record alone and, where it is fresh, says
    whether it agrees. Raises `ValueError` for an unknown slug or no measures.
    """
    if not measures:
        raise ValueError(f"measures=[] of the verdict on {slug}: at least one is expected")
    found = Verdict(registry.get(slug).slug, claim, tuple(measures), against, data)
    print(found)
    if os.environ.get("MINITOK_RECORD") == "1":
        files.write(registry.places(slug)["verdict"], as_json(found))
    elif registry.is_fresh(slug):
        recorded = recorded_verdict(slug)
        same = "agrees with" if recorded.outcome == found.outcome else "differs from"
        print(f"This {same} the recorded verdict: {recorded.outcome}.")
    return found


def recorded_verdict(slug: str) -> Verdict:
    """The recorded verdict of a lesson, fresh or not. Raises `ValueError` when there is none."""
    recorded = registry.record(slug)
    if recorded is None:
        raise ValueError(f"{slug} has no recorded verdict")
    rows = [{key: value for key, value in row.items() if key != "holds"} for row in recorded["measures"]]
    measures = tuple(Measure(**row) for row in rows)
    return Verdict(recorded["slug"], recorded["claim"], measures, recorded["against"], recorded["data"])


def as_json(found: Verdict) -> str:
    """The text of a verdict's record: the measures, the outcome, and the hash of the source as it is now."""
    measures = [asdict(measure) | {"holds": measure.holds} for measure in found.measures]
    content: dict[str, Any] = asdict(found) | {"measures": measures, "outcome": found.outcome}
    content["source"] = registry.source_hash(found.slug)
    return json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def _figure(name: str, argument: str, given: SupportsFloat) -> int | float:
    value = given if isinstance(given, int) else float(f"{float(given):.3g}")
    if not math.isfinite(value):
        raise ValueError(f"{argument}={value} of the measure {name!r} is not finite")
    return value
