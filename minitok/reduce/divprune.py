"""DivPrune: keep the tokens that are furthest from one another.

Alvar, Singh, Akbari, Zhang: DivPrune: Diversity-based Visual Token Pruning for Large Multimodal Models, 2025,
arXiv 2503.02175.

Mechanism: choose the k tokens whose smallest distance to one another is as large as possible, the max-min diversity
problem, by a greedy walk (algorithm 1). The distance is `d(i, j) = 1 - cos(x_i, x_j)`. First comes the token that is
furthest from its nearest other one; then, again and again, the token that is furthest from all chosen ones,
`argmax_j min_{i in S} d(i, j)`. No score says which token is important: whoever has a double is left out. For a metric
the greedy choice has at least half of the best smallest distance. The cosine distance is none, but the chord `sqrt(2d)`
of two unit vectors is, and the walk by it is the same. Kept tokens stay in the order of the input.
Differs from the paper: its share of kept tokens, `round(ratio * n)`, is a count k here. No token is chosen twice; the
released code may repeat one when all that are left are copies. A token of zeros, which has no direction, is at distance
1 from every other one, also from another token of zeros; there the released code divides by zero.
Notebook: notebooks/06_reduce/11_divprune.ipynb
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from minitok.reduce._common import Kept, Reduction, check_budget, check_signal, check_tokens, precise


def distances(x: Float[Tensor, "b n c"]) -> Float[Tensor, "b n n"]:
    """One minus the cosine of each pair of tokens, 0 to 2, in float32 or finer; 1 where a token is all zeros.

    >>> distances(torch.tensor([[[2.0, 0.0], [0.0, 1.0], [-3.0, 0.0]]]))
    tensor([[[0., 1., 2.],
             [1., 0., 1.],
             [2., 1., 0.]]])
    """
    x = F.normalize(precise(x), dim=-1)
    return 1 - x @ x.mT


def most_apart(distance: Float[Tensor, "b n n"], k: int) -> Int[Tensor, "b"]:
    """The token that is furthest from its nearest other one: the first pick; of equals the lowest.

    >>> most_apart(torch.tensor([[[0.0, 1.0, 3.0], [1.0, 0.0, 3.0], [3.0, 3.0, 0.0]]]), k=1)
    tensor([2])

    k is only checked, for whoever goes on from here. Raises `ValueError` for distances that are not (b, n, n), not
    floating point or not finite, and for a k outside 1 to n. Source: algorithm 1, first stage.
    """
    check_signal("distance", distance, (None, None, None))
    if distance.shape[1] != distance.shape[2]:
        raise ValueError(f"distance of shape {tuple(distance.shape)} came, expected (b, n, n)")
    check_budget(k, distance.shape[1])
    own = torch.eye(distance.shape[1], dtype=torch.bool, device=distance.device)
    return distance.masked_fill(own, torch.inf).amin(1).argmax(1)


def max_min(distance: Float[Tensor, "b n n"], k: int) -> Int[Tensor, "b k"]:
    """The k tokens of the greedy walk, in the order in which they are chosen; of equals the lowest.

    >>> at = torch.tensor([0.0, 1.0, 5.0, 9.0])
    >>> max_min((at[:, None] - at).abs()[None], k=3)
    tensor([[2, 0, 3]])

    Tokens 2 and 3 are equally far from their nearest others (4), and 2 is the lower. Source: algorithm 1.
    """
    pick = most_apart(distance, k)
    rows = torch.arange(len(distance), device=distance.device)
    reach, picks = torch.full_like(distance[:, 0], torch.inf), [pick]
    for _ in range(k - 1):
        # A chosen token is never chosen again, even when all that are left are its copies.
        reach = torch.minimum(reach, distance[rows, pick]).scatter(1, pick[:, None], -torch.inf)
        pick = reach.argmax(1)
        picks.append(pick)
    return torch.stack(picks, 1)


def divprune(x: Float[Tensor, "b n c"], k: int) -> Kept:
    """Keeps the k tokens of the greedy walk, in the order of the input.

    Memory n^2 a row, and k steps of n. Raises `ValueError` for bad tokens or a k outside 1 to n.
    """
    check_tokens(x, k)
    return Reduction.keep(max_min(distances(x), k).sort(1).values, x.shape[1])
