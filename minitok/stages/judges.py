"""The judges that every method of chapter 5 meets, and what each rule keeps of all codes at once.

A judge decides on drafts (`accept`); a rule gives the probabilities (m, v) with which the codes are kept at m places,
for `Stage.weigh`.
"""

import math
from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor

from minitok.speculate import Accept, gsd, lantern, pick, speculative

Places = tuple[Float[Tensor, "m v"], Float[Tensor, "m v"]]


def gullible(p: Tensor, q: Tensor, drafted: Tensor, generator: Generator | None) -> tuple[int, int]:
    """The judge that believes everything: what comes out is the drafter's."""
    return len(drafted), pick(p[-1], generator)


def lenient(share: float | int) -> Accept:
    """The judge that looks at no neighbours: as strict as if q were `share` times as large (appendix A.5)."""

    def keep(p: Tensor, q: Tensor, x: int) -> float:
        return min(1.0, float(p[x] / (share * q[x])))

    def accept(p: Tensor, q: Tensor, drafted: Tensor, generator: Generator | None) -> tuple[int, int]:
        return speculative.verify(p, q, drafted, keep, speculative.residual, generator)

    return accept


def leniently(places: Places, share: float | int = 1) -> Float[Tensor, "m v"]:
    """The rule of `lenient`; of share 1 that of the exact judge."""
    p, q = places
    return (p / q / share).clamp(max=1)


def by_loans(places: Places, neighbours: Int[Tensor, "v k"], delta: float | int) -> Float[Tensor, "m v"]:
    """The rule of LANTERN."""
    codes = torch.arange(len(neighbours))
    lent = torch.stack([lantern.borrowed(p, codes, neighbours, delta) for p in places[0]])
    return ((places[0] + lent) / places[1]).clamp(max=1)


def by_groups(
    places: Places, codebook: Float[Tensor, "v d"], window: int, radius: float | int = 0.5
) -> Float[Tensor, "m v"]:
    """The rule of grouped speculative decoding."""
    codes = torch.arange(len(codebook))
    rows = zip(*places, strict=True)
    return torch.stack([gsd.acceptances(p, q, codes, codebook, window=window, radius=radius) for p, q in rows])


def strangers(v: int, k: int = 64, seed: int = 0) -> Int[Tensor, "v k"]:
    """Control for LANTERN: k neighbours by lot, from the first of which most is lent."""
    return torch.rand(v, v, generator=Generator().manual_seed(seed)).argsort(-1)[:, :k]


def setting(kept: Callable[[float], float], percent: float | int, low: float | int, high: float | int) -> float:
    """The setting between low and high, both above 0, at which a judge keeps so many percent of the guesses.

    >>> round(setting(lambda x: 10 * x, 40, 1, 9), 3)
    4.0

    `kept` rises or falls all the way. Halves the interval of logarithms 20 times.
    """
    rises = kept(high) > kept(low)
    for _ in range(20):
        middle = math.sqrt(low * high)
        if (kept(middle) < percent) == rises:
            low = middle
        else:
            high = middle
    return math.sqrt(low * high)


def clusters(vectors: Float[Tensor, "v d"], count: int, seed: int = 0) -> Int[Tensor, "v"]:
    """Control for GSD: groups of vectors that are chosen once, by ten rounds of k-means."""
    centres = vectors[torch.randperm(len(vectors), generator=Generator().manual_seed(seed))[:count]]
    for _ in range(10):
        own = torch.cdist(vectors, centres).argmin(-1)
        sums = torch.zeros_like(centres).index_add(0, own, vectors)
        held = own.bincount(minlength=count)[:, None]
        centres = torch.where(held > 0, sums / held.clamp(min=1), centres)
    return own
