"""Several cuts of the house's vlm in one pass: which method leaves how many visual tokens where.

Step by step the model runs up to a cut, a method looks at what is left there, and its reduction goes on.
"""

import inspect
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from minitok.reduce import Reduction
from minitok.stages import reduce_cuts
from minitok.stages.reduce_cuts import ASKING, Cut

Method = Callable[..., Reduction]
Schedule = Mapping[int | None, int]


@dataclass(frozen=True)
class Step:
    """After the attention of a layer (None: before the first) a method leaves k visual tokens; none at k = 0."""

    layer: int | None
    k: int
    method: Method

    @property
    def names(self) -> set[str]:
        """What the method has parameters for."""
        return set(inspect.signature(self.method).parameters) if self.k else set()

    def made(self, at: Cut) -> Reduction:
        """What the method makes of the visual tokens at the cut, given those of the cut's signals that it asks for."""
        if self.k == 0:
            return Reduction.keep(torch.zeros(len(at.hidden), 0, dtype=torch.long), at.visual.shape[1])
        return self.method(at.visual, self.k, **asked_for(self.method, at))


def asked_for(method: Callable, at: Cut) -> dict[str, Any]:
    """Those of a cut's signals that a method has parameters for, and how many `pictures` its tokens are of."""
    known = {**at.signals, "pictures": at.pictures}
    return {name: known[name] for name in inspect.signature(method).parameters if name in known}


def steps(schedule: Schedule, method: Method | Mapping[int | None, Method]) -> list[Step]:
    """The steps of a schedule by one method, or by a method of its own for each place.

    Raises `ValueError` for no steps, for places out of order, and where a place has no method.
    """
    places = [-1 if layer is None else layer for layer in schedule]
    if not places or any(a >= b for a, b in itertools.pairwise(places)):
        raise ValueError(f"schedule at {list(schedule)} came, expected places in the order in which they are reached")
    if isinstance(method, Mapping) and schedule.keys() != method.keys():
        raise ValueError(f"methods for {list(method)} came, expected those for {list(schedule)}")
    own = method if isinstance(method, Mapping) else dict.fromkeys(schedule, method)
    return [Step(layer, k, own[layer]) for layer, k in schedule.items()]


def halves(all_steps: Sequence[Step]) -> tuple[list[Step], list[Step]]:
    """The steps before any that looks at one question alone, and the others."""
    first = list(itertools.takewhile(lambda step: not step.names & set(ASKING), all_steps))
    return first, list(all_steps[len(first) :])


def reached(at: Cut, layer: int | None) -> Cut:
    """The cut at a layer, from one there or before it."""
    return at if layer is None or layer == at.layer else reduce_cuts.after(at, layer)


def walk(at: Cut, some: Sequence[Step], look: Callable[[Cut, Step], object] | None = None) -> Cut:
    """The last cut with what all steps have left, from one that is before them; `look` sees each step's cut."""
    for step in some:
        at = reached(at, step.layer)
        missing = step.names & set(ASKING) - at.signals.keys()
        if missing:  # each row is one question by now
            alone = torch.stack([torch.arange(len(at.hidden)), torch.zeros(len(at.hidden), dtype=torch.long)], 1)
            at = at.alone(alone, at.signals.keys() | missing)
        if look is not None:
            look(at, step)
        at = at.left(step.made(at))
    return at
