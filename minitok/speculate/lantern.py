"""LANTERN: a drafted image code is kept more readily, since codes that look alike lend it their probability.

Jang, Park, Yang, Jung, Yun, Kundu, Kim, Yang: LANTERN: Accelerating Visual Autoregressive Models with Relaxed
Speculative Decoding, 2024, arXiv 2410.03355.

Mechanism: for each code x a list of its k nearest others, by L2 distance of the codebook's vectors. Of a drafted x the
m nearest lend their probability: `c(x) = sum of p over them`, with the largest m <= k for which `c(x) <= delta`. Then x
is kept with probability `min(1, (p(x) + c(x)) / q(x))`; after a refusal the code is drawn from `norm(max(0, p - q))`,
where q counts as 0 at the neighbours of an x that had borrowed. delta = 0 or k = 0 is the exact rule. The target that
x is judged by (x has p(x) + c(x), its lenders nothing) is at most delta from p in total variation. The code that comes
out is not bound by delta (see `bound`).
Differs from the paper: drafts are a chain, not a tree. The correction is that of the authors' tree of fixed shape; for
EAGLE-2's tree their code sets q to 1 and takes x and its neighbours out of p instead. It counts k + 1 neighbours as out
of q, ours the k that may lend, and only if they lend more than nothing, so that delta = 0 is exact for a p with zeros,
too. Greedy decoding has a rule of its own (`greedy`). The rule for delta above 1 (loans in proportion to p(x)) is left
to an exercise.
Notebook: notebooks/05_speculate/04_lantern.ipynb
"""

from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor

from minitok.checks import finite, readable
from minitok.speculate import speculative
from minitok.speculate._checks import check_draft, wide
from minitok.speculate.speculative import overlap, verify


def nearest(codebook: Float[Tensor, "v d"], k: int) -> Int[Tensor, "v k"]:
    """The k codes nearest to each, from the nearest on, without itself; of equally near ones the lower first.

    >>> nearest(torch.tensor([[0.0], [1.0], [3.0], [7.0]]), 2).tolist()
    [[1, 2], [0, 2], [1, 0], [2, 1]]

    Distance is L2, as in the authors' code. Raises `ValueError` for a k that is not from 0 to v - 1, or vectors that
    are not finite.
    """
    if codebook.dim() != 2 or not finite(codebook):
        raise ValueError(f"codebook of shape {tuple(codebook.shape)} came, expected (v, d) of finite numbers")
    if not 0 <= k < len(codebook):
        raise ValueError(f"k={k} came, expected 0 to {len(codebook) - 1}: a code is no neighbour of its own")
    # Exact differences: the matrix product that `cdist` may use makes equal distances unequal, and errs far from zero.
    vectors = wide(codebook)
    apart = torch.cdist(vectors, vectors, compute_mode="donot_use_mm_for_euclid_dist").fill_diagonal_(torch.inf)
    return apart.argsort(dim=-1, stable=True)[:, :k].contiguous()


def borrowed(
    p: Float[Tensor, "v"], x: Int[Tensor, "n"], neighbours: Int[Tensor, "v k"], delta: float | int
) -> Float[Tensor, "n"]:
    """How much probability the neighbours lend to each code of x: the largest sum over the nearest m that is <= delta.

    >>> neighbours = torch.tensor([[1, 2, 3], [0, 2, 3], [1, 0, 3], [2, 1, 0]])
    >>> borrowed(torch.tensor([0.0, 0.25, 0.25, 0.5]), torch.tensor([0, 3]), neighbours, 0.5).tolist()
    [0.5, 0.5]

    Source: `evaluate_posterior_v1` of the authors' code. Raises `ValueError` for neighbours that do not fit p, or a
    delta outside [0, 1].
    """
    if not 0 <= delta <= 1:
        raise ValueError(f"delta={delta} came, expected 0 to 1, the most probability that may be lent")
    v = len(p)
    if neighbours.dim() != 2 or len(neighbours) != v or neighbours.is_floating_point():
        shape, kind = tuple(neighbours.shape), neighbours.dtype
        raise ValueError(f"neighbours of shape {shape} and {kind} came, expected ({v}, k) whole numbers")
    listed = neighbours[x]
    looked = readable(listed) and listed.numel()
    if looked and not (int(listed.min()) >= 0 and int(listed.max()) < v):
        raise ValueError(f"neighbours from {int(listed.min())} to {int(listed.max())} came, expected 0 to {v - 1}")
    sums = p[listed].double().cumsum(-1)
    return torch.where(sums <= delta, sums, 0).amax(-1).to(p.dtype) if listed.shape[1] else p.new_zeros(len(x))


def relaxed(p: Float[Tensor, "v"], x: int, neighbours: Int[Tensor, "v k"], delta: float | int) -> Float[Tensor, "v"]:
    """The target that a drafted x is judged by: its lenders' probability lies on x. At most delta from p.

    >>> neighbours = torch.tensor([[1, 2], [0, 2], [1, 0]])
    >>> relaxed(torch.tensor([0.5, 0.25, 0.25]), 0, neighbours, 0.3).tolist()
    [0.75, 0.0, 0.25]

    There is one for each x, and no single distribution that all drafts are judged by: hence no bound on what comes out.
    """
    total = borrowed(p, torch.tensor([x], device=p.device), neighbours, delta)
    near = p[neighbours[x]]
    y = p.scatter(0, neighbours[x], torch.where(near.double().cumsum(-1) <= delta, 0, near))
    y[x] = p[x] + total[0]
    return y


def acceptance(
    p: Float[Tensor, "v"], q: Float[Tensor, "v"], x: int, neighbours: Int[Tensor, "v k"], *, delta: float | int = 0.1
) -> float:
    """The probability that a code x, drawn from q, is kept: `min(1, (p(x) + c(x)) / q(x))`.

    >>> p, q = torch.tensor([0.25, 0.25, 0.5]), torch.tensor([1.0, 0.0, 0.0])
    >>> acceptance(p, q, 0, torch.tensor([[1, 2], [0, 2], [1, 0]]), delta=0.25)
    0.5

    `neighbours` lists the nearest codes of each (`nearest`), k of them; `delta` is the most that they may lend, from 0
    to 1. Raises `ValueError` where q(x) is 0, and as `borrowed`.
    """
    exact = speculative.acceptance(p, q, x)
    lent = borrowed(p, torch.tensor([x], device=p.device), neighbours, delta)
    return min(1.0, exact + float(lent[0] / q[x]))


def residual(
    p: Float[Tensor, "v"], q: Float[Tensor, "v"], x: int, neighbours: Int[Tensor, "v k"], *, delta: float | int = 0.1
) -> Float[Tensor, "v"]:
    """The probabilities to draw from when x was refused: the exact ones, with q = 0 at all neighbours if any lent.

    >>> p, q = torch.tensor([0.25, 0.25, 0.5]), torch.tensor([0.5, 0.25, 0.25])
    >>> residual(p, q, 0, torch.tensor([[1], [0], [1]]), delta=0.0).tolist()
    [0.0, 0.0, 1.0]
    >>> residual(p, q, 0, torch.tensor([[1], [0], [1]]), delta=0.25).tolist()
    [0.0, 0.5, 0.5]

    All k neighbours count, not only those m that lent. The authors' `evaluate_posterior_v1` does so for k + 1 of them:
    its slice is one longer than that of those that may lend.
    """
    lent = borrowed(p, torch.tensor([x], device=p.device), neighbours, delta)[0] > 0
    return speculative.residual(p, torch.where(lent, q.index_fill(0, neighbours[x], 0), q), x)


def accept(
    p: Float[Tensor, "k1 v"],
    q: Float[Tensor, "k v"],
    drafted: Int[Tensor, "k"],
    generator: Generator | None = None,
    *,
    neighbours: Int[Tensor, "v _"],
    delta: float | int = 0.1,
) -> tuple[int, int]:
    """How many of k drafted codes are kept, and the code that follows; see `acceptance` and `residual`.

    >>> p = torch.tensor([[0.5, 0.5, 0.0], [0.0, 0.0, 1.0]])
    >>> accept(p, torch.tensor([[1.0, 0.0, 0.0]]), torch.tensor([0]), neighbours=torch.tensor([[1], [0], [1]]), delta=1)
    (1, 2)
    """
    settings = {"neighbours": neighbours, "delta": delta}
    return verify(p, q, drafted, partial(acceptance, **settings), partial(residual, **settings), generator)


def greedy(
    p: Float[Tensor, "k1 v"],
    q: Float[Tensor, "k v"],
    drafted: Int[Tensor, "k"],
    generator: Generator | None = None,
    *,
    neighbours: Int[Tensor, "v _"],
    delta: float | int = 0.1,
) -> tuple[int, int]:
    """`accept` without chance: x is kept if it is the likeliest code once its loan is added; lenders keep theirs.

    >>> p = torch.tensor([[2.0, 1.9, 0.0], [0.0, 0.0, 9.0]]).softmax(-1)  # 0.49, 0.44, 0.07
    >>> rule = {"neighbours": torch.tensor([[1, 2], [0, 2], [1, 0]]), "delta": 0.6}
    >>> greedy(p, torch.tensor([[0.0, 1.0, 0.0]]), torch.tensor([1]), **rule)
    (1, 2)

    p is that of temperature 1: of temperature 0 nothing is left to lend. After the kept codes comes the likeliest, by p
    itself; of equal ones the first. delta = 0 is greedy decoding. Source: `evaluate_posterior` of the authors' code.
    """
    check_draft(p, q, drafted)
    best = p.argmax(-1).tolist()
    for i, x in enumerate(drafted.tolist()):
        raised = p[i].clone()
        raised[x] += borrowed(p[i], drafted[i : i + 1], neighbours, delta)[0]
        if int(raised.argmax()) != x:
            return i, best[i]
    return len(drafted), best[-1]


def bound(p: Float[Tensor, "v"], q: Float[Tensor, "v"]) -> float:
    """How far from p the code that comes out may be in total variation: not farther than the draft itself.

    >>> bound(torch.tensor([0.25, 0.75]), torch.tensor([0.5, 0.5]))
    0.25

    With s(x) = min(q(x), p(x) + c(x)), drafted and kept, and the exact rule's residual the distance would be the sum of
    max(0, s - p). The other residual moves at most what is refused, 1 - sum of s. Together: 1 - sum of min(p, q).
    """
    return 1 - float(overlap(p, q))
