"""What VFlowOpt searches for on the house's vlm: what a point means there, what it is worth, and its row.

A point is (r_v, r_1, t, m, alpha): the share of tokens that the language model reads, the share of those that layer
`FIRST` leaves, the threshold of payers, the side of a cell in patches, and the weight of entropy. The share that layer
`SECOND` leaves follows from the budget: the average over layers of the share of visual tokens that they read.
"""

import functools
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from minitok.reduce.vflowopt import entropy, importance, least_dropped, vflowopt
from minitok.stages.reduce_rows import Row
from minitok.stages.reduce_steps import Step, steps, walk
from minitok.stages.reduce_vlm import Stage

FIRST, SECOND, PATCH = 2, 4, 4


def bounds(average: float) -> list[tuple[float, float]]:
    """Where the search looks: those of the paper, with a threshold and cells that fit 16 x 16 patches."""
    return [(average, 1.5 * average), (0.8 / 1.5, 1.0), (0.0, 3.0), (3.0, 9.0), (-1.0, 1.0)]


def schedule(point: Sequence[float], average: float, n: int = 256, layers: int = 6) -> dict[int | None, int]:
    """How many of n tokens each place leaves, so that the layers read the share `average` of them on average.

    >>> schedule([0.375, 0.6, 0.0, 4.0, 0.0], average=0.25)
    {None: 96, 2: 58, 4: 1}
    >>> schedule([0.25, 1.0, 0.0, 4.0, 0.0], average=0.25)
    {None: 64, 2: 64, 4: 64}

    Never below one token, and never more than are left: so a point may miss the budget by what rounding adds.
    """
    before, inside = point[0], point[0] * point[1]
    left = layers * average - (FIRST + 1) * before - (SECOND - FIRST) * inside
    last = min(left / (layers - 1 - SECOND), inside)
    return {place: max(1, round(n * share)) for place, share in ((None, before), (FIRST, inside), (SECOND, last))}


def knowing(stage: Stage, point: Sequence[float]) -> Stage:
    """The stage with the importance of its patches as `scores`."""
    attention, bits = stage.start.signals["attention"], entropy(stage.scenes.images, PATCH)
    return stage.knowing(scores=importance(attention, bits, point[2], point[4]))


def plan(point: Sequence[float], average: float, recycle: bool = True) -> list[Step]:
    """The steps of a point; without recycling, what is not kept is dropped before the language model too."""
    places = schedule(point, average)
    first = partial(vflowopt, cell=point[3]) if recycle else least_dropped
    return steps(places, {place: first if place is None else least_dropped for place in places})


@torch.no_grad()
def worth(stage: Stage, point: Sequence[float], average: float) -> tuple[Float[Tensor, "r"], Bool[Tensor, "r"]]:
    """Of each question the cosine of its last word's last state with that of all tokens, and if its answer is kept."""
    start = replace(knowing(stage, point).start, weigh=False)
    ends = walk(start, plan(point, average)).ends()[tuple(stage.rows.T)]
    same = stage.host.head(ends).argmax(-1) == stage.before.argmax(-1)
    return F.cosine_similarity(ends, whole(stage), dim=-1), same


@functools.cache
def whole(stage: Stage) -> Float[Tensor, "r c"]:
    """The last words' last states with all tokens."""
    return stage.start.ends()[tuple(stage.rows.T)]


def measure(stage: Stage, point: Sequence[float], average: float, recycle: bool = True) -> Row:
    """The row of a point on a stage."""
    todo = plan(point, average, recycle)
    places = {step.layer: step.k for step in todo}
    return knowing(stage, point).along(places, {step.layer: step.method for step in todo}, weigh=False)
