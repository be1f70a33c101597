"""CenterCLIP: a clip in segments of frames, each left with a few of its own tokens, the medoids of its clusters.

Zhao, Zhu, Wang, Yang: CenterCLIP: Token Clustering for Efficient Text-Video Retrieval, 2022, arXiv 2205.00823.

Mechanism: frames are cut into S segments of consecutive ones, and the tokens of a segment's frames are clustered
together by k-medoids with Euclidean distances. Start (KKZ): the token of the largest norm, then, again and again, the
one furthest from its nearest medoid. Repeat: each token goes to its nearest medoid; the new medoid of a cluster is the
member with the smallest sum of distances to the members; until no medoid moves. The medoids, real tokens, stand in the
order of the input; all others are dropped. No text, no attention, nothing random.
Differs from the paper: it acts inside CLIP's image encoder, at chosen blocks, so that later blocks attend across the
frames of a segment, averages their CLS tokens, and is trained on by the loss of retrieval; here it is the reduction
alone, on the tokens of any model. A k is shared out among the segments as evenly as can be, the first get one more.
Rows of a batch go on until none moves, where its code stops them all at a small mean shift; its distances are shifted
below 0 so that masked zeros are never smallest, here other clusters are masked. Spectral clustering, its second way,
is not here.
Notebook: notebooks/06_reduce/08_centerclip.ipynb
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from minitok.checks import readable, whole
from minitok.reduce._common import Kept, Reduction, check_tokens, precise

ROUNDS = 60


def distances(x: Float[Tensor, "b n c"]) -> Float[Tensor, "b n n"]:
    """Euclidean distances between all tokens, exactly 0 between equal ones."""
    return torch.cdist(x := precise(x), x, compute_mode="donot_use_mm_for_euclid_dist")


def kkz(x: Float[Tensor, "b n c"], distance: Float[Tensor, "b n n"], k: int) -> Int[Tensor, "b k"]:
    """The token of the largest norm, then always the one furthest from its nearest chosen one; of equals the lowest.

    >>> x = torch.tensor([[[3.0], [0.0], [1.0], [5.0]]])
    >>> kkz(x, distances(x), 3)
    tensor([[3, 1, 0]])

    From 5 the furthest is 0; then 3 and 1 are 2 and 1 from their nearest.
    """
    pick = precise(x).norm(dim=-1).argmax(1)
    picks, nearest = [pick], torch.full_like(distance[:, 0], torch.inf)
    rows = torch.arange(len(x), device=x.device)
    for _ in range(k - 1):
        # A chosen token is never chosen again, though others may lie at its place.
        nearest = torch.minimum(nearest, distance[rows, pick]).scatter(1, pick[:, None], -1.0)
        pick = nearest.argmax(1)
        picks.append(pick)
    return torch.stack(picks, 1)


def assign(distance: Float[Tensor, "b n n"], medoids: Int[Tensor, "b k"]) -> Int[Tensor, "b n"]:
    """Which medoid each token goes to: the nearest, of equals the first in this list; a medoid to itself."""
    n, k = distance.shape[1], medoids.shape[1]
    there = distance.gather(1, medoids[..., None].expand(-1, -1, n)).argmin(1)
    own = torch.arange(k, device=there.device).expand_as(medoids)
    return there.scatter(1, medoids, own)


def moved(distance: Float[Tensor, "b n n"], assignment: Int[Tensor, "b n"], k: int) -> Int[Tensor, "b k"]:
    """The new medoid of each cluster: the member with the smallest sum of distances to all, of equals the lowest.

    >>> x = torch.tensor([[[0.0], [1.0], [3.0], [9.0]]])
    >>> moved(distances(x), torch.tensor([[0, 0, 0, 1]]), 2)
    tensor([[1, 3]])

    The sums are 4, 3 and 5.
    """
    members = F.one_hot(assignment, k).mT.to(distance.dtype)  # b k n
    return (members @ distance).masked_fill(members == 0, torch.inf).argmin(-1)


def medoids(x: Float[Tensor, "b n c"], k: int, rounds: int = ROUNDS) -> Int[Tensor, "b k"]:
    """The medoids of k clusters of each row's tokens, ascending."""
    distance = distances(x)
    found = kkz(x, distance, k)
    for _ in range(rounds):
        before, found = found, moved(distance, assign(distance, found), k)
        # What does not move never moves again.
        if readable(found) and torch.equal(before, found):
            break
    return found.sort(-1).values


def centerclip(x: Float[Tensor, "b n c"], k: int, *, frames: int = 1, segments: int = 1, rounds: int = ROUNDS) -> Kept:
    """Keeps k medoids of a clip's tokens, in their order: of each of so many segments its share.

    `x` are the tokens of equal `frames`, one frame after another, `segments` cut them into runs as even as can be.
    Raises `ValueError` for bad tokens, a k outside 1 to n, frames that do not share the tokens out, segments above
    the frames or above k, and where a segment has fewer tokens than its share of k.
    """
    check_tokens(x, k)
    b, n, _ = x.shape
    frames, segments = whole("frames", frames, 1, n), whole("segments", segments, 1)
    if n % frames:
        raise ValueError(f"frames={frames} came, expected a divisor of the {n} tokens of x")
    if segments > min(frames, int(k)):
        raise ValueError(f"segments={segments} came, expected at most {frames} frames and k={int(k)}")
    rounds = whole("rounds", rounds, 0)
    kept, start = [], 0
    for run, count in zip(shares(frames, segments), shares(int(k), segments), strict=True):
        end = start + run * (n // frames)
        if count > end - start:
            raise ValueError(f"k={int(k)} came, {count} for a segment of {end - start} tokens")
        kept.append(start + medoids(x[:, start:end], count, rounds))
        start = end
    return Reduction.keep(torch.cat(kept, 1), n)


def shares(total: int, parts: int) -> list[int]:
    """A number in so many parts as even as can be, the first ones larger.

    >>> shares(8, 3)
    [3, 3, 2]
    """
    return [total // parts + (i < total % parts) for i in range(parts)]
