"""Verdicts: what a notebook measured, whether the claim holds, and whether that is what the record says."""

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

from minitok import files
from minitok.course import registry
from minitok.course.measures import Measure
from minitok.tables import aligned, shown, wrapped

RECORD, JUDGE = "MINITOK_RECORD", "MINITOK_JUDGE"
UNDECIDED = "Undecided: so near that measuring again could tip it; it does not count as held."
WIDTH, WIDEST = 88, (26, 8, 8, 15, 9, 24)


class NotReproduced(AssertionError):
    """A run that is judged gave another verdict than the record."""


@dataclass(frozen=True)
class Verdict:
    """A claim, its measures, the baseline they are taken against and the data. `str` gives a plain table.

    `measured` is the day of the record that it was read from; None: it was measured now.
    """

    slug: str
    claim: str
    measures: tuple[Measure, ...]
    against: str
    data: str
    measured: str | None = field(default=None, compare=False)

    @property
    def outcome(self) -> str:
        """`holds` when all measures hold, `holds in part` when some, else `does not hold at this scale`.

        A measure that is undecided does not hold.
        """
        held = [measure.holds for measure in self.measures]
        if all(held):
            return "holds"
        return "holds in part" if any(held) else "does not hold at this scale"

    def changes(self, before: "Verdict") -> list[str]:
        """What differs from the verdict `before`, in words, a line each.

        That is a figure beyond its tolerance, a yes that was a no, or other measures. A line that became undecided, or
        ceased to be, is no change.
        """
        names, others = ([measure.name for measure in found.measures] for found in (self, before))
        if names != others:
            return [f"the measures are {', '.join(names)} now, {', '.join(others)} in the record"]
        pairs = zip(self.measures, before.measures, strict=True)
        return [line for now, then in pairs for line in now.changes(then)]

    def _ipython_display_(self) -> None:
        """Nothing: a notebook need not show again below a cell what `verdict` has printed there."""

    def __str__(self) -> str:
        lines = [("measure", "ours", "baseline", "asked of ours", "holds", "the paper's own figure")]
        for measure in self.measures:
            unit = f" ({measure.unit})" if measure.unit else ""
            own = measure.paper or "the paper gives none"
            figures = (shown(measure.ours), shown(measure.baseline), measure.asked, measure.says)
            lines.append((measure.name + unit, *figures, own))
        facts = {"Claim": self.claim, "Against": self.against, "Data": self.data}
        if self.measured is not None:
            facts["Measured"] = self.measured
        told = [line for name, text in facts.items() for line in wrapped(f"{name}: {text}", WIDTH)]
        end = [f"Verdict: {self.outcome}"]
        if any(measure.says == "undecided" for measure in self.measures):
            end = [UNDECIDED, *end]
        return "\n".join([*told, "", aligned(lines, WIDEST), "", *end])


def verdict(slug: str, claim: str, measures: Sequence[Measure], *, against: str, data: str) -> Verdict:
    """Computes and prints the verdict of a lesson; the build of the course records it, its tests judge it.

    Where `data` is other than the record's (something is not at hand here), the recorded verdict is shown as recorded,
    and returned. Else, in any run of a reader's, what differs from the record is said in words; under
    `MINITOK_JUDGE=1` it raises `NotReproduced`. Under `MINITOK_RECORD=1` (set by `python do.py notebooks`) the verdict
    is written to `data/verdicts/<slug>.json` with the day and the hash of the lesson's source; then data count as
    other only as long as module and notebook are the record's.

    Raises `ValueError` for an unknown slug or no measures.
    """
    if not measures:
        raise ValueError(f"measures=[] of the verdict on {slug}: at least one is expected")
    found = Verdict(registry.get(slug).slug, claim, tuple(measures), against, data)
    recorded = recorded_verdict(slug) if registry.record(slug) else None
    recording = _asked(RECORD)
    if recorded and recorded.data != data and (registry.is_fresh(slug) or not recording):
        print(f"Here we have other data: {data}.\nThe verdict as it was recorded, not measured now:\n\n{recorded}")
        return recorded
    print(found)
    if recording:
        files.write(registry.places(slug)["verdict"], as_json(found))
    elif recorded or _asked(JUDGE):
        _compare(found, recorded)
    return found


def recorded_verdict(slug: str) -> Verdict:
    """The recorded verdict of a lesson, fresh or not. Raises `ValueError` when there is none."""
    recorded = registry.record(slug)
    if recorded is None:
        raise ValueError(f"{slug} has no recorded verdict")
    measures = tuple(Measure(**{name: row[name] for name in row if name != "says"}) for row in recorded["measures"])
    facts = (recorded["slug"], recorded["claim"], measures, recorded["against"], recorded["data"])
    return Verdict(*facts, measured=recorded["measured"])


def as_json(found: Verdict) -> str:
    """The text of a verdict's record: its measures, its outcome, the source's hash, and the day.

    The day stays that of the record when nothing else has changed.
    """
    measures = [asdict(measure) | {"says": measure.says} for measure in found.measures]
    content: dict[str, Any] = asdict(found) | {"measures": measures, "outcome": found.outcome}
    content["source"] = registry.source_hash(found.slug)
    before = registry.record(found.slug) or {}
    same = {**before, "measured": None} == {**content, "measured": None}
    content["measured"] = before["measured"] if same else datetime.now(UTC).date().isoformat()
    return json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def _compare(found: Verdict, recorded: Verdict | None) -> None:
    if recorded is None:
        raise NotReproduced(f"{found.slug} has no recorded verdict: run `python do.py notebooks` on its lesson")
    changed = found.changes(recorded)
    if not changed:
        print(f"This agrees with the record ({recorded.measured}): {recorded.outcome}.")
        return
    told = "\n".join([f"This differs from the record ({recorded.measured}):", *(f"- {line}" for line in changed)])
    if _asked(JUDGE):
        raise NotReproduced(f"the verdict on {found.slug} is not reproduced. {told}")
    print(told)


def _asked(variable: str) -> bool:
    return os.environ.get(variable) == "1"
