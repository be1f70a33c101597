"""Which numbers of a row stand outside of the crowd: the Local Outlier Factor on a line."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from minitok.reduce._checks import precise

# The bound of scikit-learn's contamination="auto", and what it adds to a mean reach.
THRESHOLD, EPSILON = 1.5, 1e-10


def lof(
    scores: Float[Tensor, "b n"], neighbours: int, among: Bool[Tensor, "b n"] | None = None
) -> Float[Tensor, "b n"]:
    """The Local Outlier Factor of each score in its row: about 1 in a crowd, more the further outside.

    >>> [round(factor, 2) for factor in lof(torch.tensor([[0.0, 1.0, 2.0, 3.0, 9.0]]), neighbours=2)[0].tolist()]
    [1.0, 1.0, 1.0, 1.0, 4.33]

    The reach from a score to one of its nearest is their distance, but at least that from there to its own furthest
    neighbour; density is the inverse of the mean reach; the factor is the neighbours' mean density by one's own. Of
    equally near ones the lower is a neighbour. Only scores `among` which one looks count (default: all); the factor of
    others, and of one alone, is 1. Source: Breunig, Kriegel, Ng, Sander, 2000, definitions 5 to 7.
    """
    n, among = scores.shape[1], torch.ones_like(scores, dtype=torch.bool) if among is None else among
    value, order = precise(scores).masked_fill(~among, torch.inf).sort(dim=-1, stable=True)
    # On the line the nearest stand beside one another once they are sorted; nobody is beside one that is alone.
    step = torch.arange(1, max(min(neighbours, n - 1), 1) + 1, device=scores.device)
    place = torch.arange(n, device=scores.device)[:, None] + torch.cat([-step.flip(0), step])
    there = place.clamp(0, n - 1)
    gone = (place != there) | value[:, there].isinf() | value[:, :, None].isinf()
    distance = (value[:, there] - value[:, :, None]).abs().masked_fill(gone, torch.inf)
    near, which = (part[..., : len(step)] for part in distance.sort(dim=-1, stable=True))
    index, found = there.expand(len(scores), -1, -1).gather(2, which).flatten(1), near.isfinite()
    near = near.masked_fill(~found, 0)

    def mean(values: Float[Tensor, "b n j"]) -> Float[Tensor, "b n"]:
        return (values * found).sum(-1) / found.sum(-1).clamp(min=1)

    def theirs(values: Float[Tensor, "b n"]) -> Float[Tensor, "b n j"]:
        return values.gather(1, index).view_as(near)

    density = 1 / (mean(torch.maximum(theirs(near.amax(-1)), near)) + EPSILON)
    factor = torch.where(found.any(-1), mean(theirs(density)) / density, 1.0)
    return torch.ones_like(factor).scatter(1, order, factor)


def outliers(
    scores: Float[Tensor, "b n"], neighbours: int, among: Bool[Tensor, "b n"] | None = None
) -> Int[Tensor, "b"]:
    """How many scores of each row stand outside of the crowd, above or below it: those with a factor above 1.5."""
    return (lof(scores, neighbours, among) > THRESHOLD).sum(-1)
