"""Grouped Speculative Decoding: a drafted image code is judged by its group's probability, not by its own.

So, Shin, Kook, Park: Grouped Speculative Decoding for Autoregressive Image Generation, 2025, arXiv 2508.07747.

Mechanism: sort the codes by the target's probability at this place. The group C of a drafted x: the `window` codes just
below x in rank and the `window - 1` just above; of these, those whose probability differs from p(x) by less than `gap`
and whose vectors are nearer to that of x than `radius`. x itself is kept with probability
`min(1, sum of p over C / sum of q over C)`; after a refusal the code is drawn from `norm(max(0, p - q))`, as always.
A group of x alone is the exact rule. Groups of fixed members (k-means of the vectors) are the paper's weak baseline.
Differs from the paper: drafts may come from anywhere, where the paper's are those of Jacobi decoding (`Jacobi` below,
without its rule of keeping a window's refused guesses); x is in its group even if gap or radius is 0; a group that
would reach below the last rank is x alone (as in the authors' code, by an error that it catches).
Notebook: notebooks/05_speculate/05_gsd.ipynb
"""

from functools import partial
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Generator, Tensor

from minitok.checks import finite, readable
from minitok.speculate._checks import check_probabilities, wide
from minitok.speculate._common import Target, pick
from minitok.speculate.speculative import residual as residual
from minitok.speculate.speculative import verify


def group(
    p: Float[Tensor, "v"],
    x: Int[Tensor, "n"],
    codebook: Float[Tensor, "v _"],
    *,
    window: int = 7,
    gap: float | int = 0.15,
    radius: float | int = 0.5,
) -> tuple[Int[Tensor, "n m"], Bool[Tensor, "n m"]]:
    """The codes near each x in rank, x first, and which of them are in its group.

    >>> p, codebook = torch.tensor([0.1, 0.2, 0.3, 0.4]), torch.tensor([[0.0], [1.0], [1.25], [1.5]])
    >>> members, inside = group(p, torch.tensor([2]), codebook, window=2, gap=0.5, radius=0.5)
    >>> members.tolist(), inside.tolist()
    ([[2, 0, 1, 3]], [[True, False, True, True]])

    `window` counts ranks, `gap` is a difference of probability, `radius` a squared L2 distance; both bounds are
    exclusive. Of equal probabilities the lower code ranks lower. Source: `SpeculativeSampler` of the authors' code.
    Raises `ValueError` for settings below 0, a window that is no whole number, or a codebook that does not fit p.
    """
    if isinstance(window, float) or min(window, gap, radius) < 0:
        raise ValueError(f"window={window}, gap={gap} and radius={radius} came, expected at least 0, window whole")
    v = len(p)
    if codebook.dim() != 2 or len(codebook) != v or not finite(codebook):
        raise ValueError(f"codebook of shape {tuple(codebook.shape)} came, expected ({v}, d) of finite numbers")
    order = p.argsort(stable=True)
    rank = torch.empty_like(order).scatter(0, order, torch.arange(v, device=p.device))[x]  # n
    offsets = torch.tensor([0, *range(-window, 0), *range(1, window)], device=p.device)
    at = rank[:, None] + offsets  # n m
    members = order[at.clamp(0, v - 1)]
    near = (wide(codebook[members]) - wide(codebook[x])[:, None]).square().sum(-1) < radius
    inside = (at < v) & (rank[:, None] >= window) & ((p[members] - p[x][:, None]).abs() < gap) & near
    inside[:, 0] = True
    return members, inside


def acceptances(
    p: Float[Tensor, "v"], q: Float[Tensor, "v"], x: Int[Tensor, "n"], codebook: Float[Tensor, "v _"], **settings: Any
) -> Float[Tensor, "n"]:
    """`acceptance` of many codes at once; `settings` as in `group`.

    >>> p, q = torch.tensor([0.25, 0.25, 0.5]), torch.tensor([0.0, 0.75, 0.25])
    >>> acceptances(p, q, torch.tensor([1, 2]), torch.zeros(3, 1), window=1)
    tensor([0.6667, 1.0000])
    """
    if readable(q, x) and bool((q[x] <= 0).any()):
        raise ValueError("x holds a token to which q gives no probability, so it cannot have been drawn from q")
    members, inside = group(p, x, codebook, **settings)
    p_group, q_group = ((rows[members] * inside).sum(-1) for rows in (p, q))
    return (p_group / q_group).clamp(max=1)


def acceptance(
    p: Float[Tensor, "v"],
    q: Float[Tensor, "v"],
    x: int,
    codebook: Float[Tensor, "v _"],
    *,
    window: int = 7,
    gap: float | int = 0.15,
    radius: float | int = 0.5,
) -> float:
    """The probability that a code x, drawn from q, is kept: `min(1, p(C) / q(C))`, C the group of x by the target.

    >>> p, q, codebook = torch.tensor([0.25, 0.25, 0.5]), torch.tensor([0.0, 0.75, 0.25]), torch.zeros(3, 1)
    >>> acceptance(p, q, 1, codebook, window=0), acceptance(p, q, 1, codebook, window=1)
    (0.3333333432674408, 0.6666666865348816)

    It may also fall below the exact rule's: a code that the draft gives too rarely answers for its group. Settings
    and errors as `group`; raises `ValueError` where q(x) is 0.
    """
    row = torch.tensor([x], device=p.device)
    return float(acceptances(p, q, row, codebook, window=window, gap=gap, radius=radius)[0])


def accept(
    p: Float[Tensor, "k1 v"],
    q: Float[Tensor, "k v"],
    drafted: Int[Tensor, "k"],
    generator: Generator | None = None,
    *,
    codebook: Float[Tensor, "v _"],
    window: int = 7,
    gap: float | int = 0.15,
    radius: float | int = 0.5,
) -> tuple[int, int]:
    """How many of k drafted codes are kept, and the code that follows; see `acceptance`.

    >>> p = torch.tensor([[0.4, 0.4, 0.2], [0.0, 0.0, 1.0]])
    >>> accept(p, torch.tensor([[0.4, 0.6, 0.0]]), torch.tensor([0]), codebook=torch.zeros(3, 1), window=0)
    (1, 2)
    """
    rule = partial(acceptance, codebook=codebook, window=window, gap=gap, radius=radius)
    return verify(p, q, drafted, rule, residual, generator)


def by_cluster(p: Float[Tensor, "*b v"], q: Float[Tensor, "*b v"], clusters: Int[Tensor, "v"]) -> Float[Tensor, "*b v"]:
    """The baseline: acceptance of every code where groups are fixed, `clusters` naming the group of each code.

    >>> p, q = torch.tensor([0.25, 0.25, 0.5]), torch.tensor([0.0, 0.75, 0.25])
    >>> by_cluster(p, q, torch.tensor([0, 0, 1])).tolist()
    [0.6666666865348816, 0.6666666865348816, 1.0]

    Groups to which q gives nothing are never asked and have 1. Raises `ValueError` for clusters that do not fit p.
    """
    v = p.shape[-1]
    fit = clusters.shape == (v,) and not clusters.is_floating_point()
    if not fit or (readable(clusters) and not 0 <= int(clusters.min()) <= int(clusters.max()) < v):
        shape = tuple(clusters.shape)
        raise ValueError(
            f"clusters of shape {shape} came, expected for each of {v} codes a whole number from 0 below {v}"
        )
    sums = [torch.zeros_like(rows).index_add(-1, clusters, rows) for rows in (p, q)]
    return torch.where(sums[1] > 0, sums[0] / sums[1], 1.0).clamp(max=1)[..., clusters]


def bound(
    p: Float[Tensor, "v"],
    q: Float[Tensor, "v"],
    codebook: Float[Tensor, "v _"],
    *,
    window: int = 7,
    gap: float | int = 0.15,
    radius: float | int = 0.5,
) -> float:
    """How far from p the code that comes out may be in total variation: as much as the kept part has changed.

    With s = q a, drafted and kept, the law is `s + (1 - sum s) r`, and p is the same with min(p, q) for s; so they
    differ by at most the sum of |s - min(p, q)|. The paper promises no bound.
    """
    drawn = (q > 0).nonzero().flatten()
    kept = q[drawn] * acceptances(p, q, drawn, codebook, window=window, gap=gap, radius=radius)
    return float((kept - torch.minimum(p, q)[drawn]).abs().sum())


class Jacobi:
    """A draft without a second model: each place ahead is drawn from what the target last said there.

    `decode(jacobi.target, jacobi.draft, ...)`. Where the target has said nothing yet all codes are equally likely. So
    drafts are drawn anew at every call, from rows that know the earlier guesses; the exact rule stays exact.
    """

    def __init__(self, target: Target, v: int) -> None:
        if v < 1:
            raise ValueError(f"v={v} came, expected at least 1")
        self.model, self.v = target, v
        self.rows, self.start = torch.zeros(0, v, dtype=torch.float64), 0

    def target(self, tokens: Int[Tensor, "n"], m: int) -> Float[Tensor, "m v"]:
        """The target's answer, which is remembered with its place; `ValueError` unless it holds probabilities."""
        rows = self.model(tokens, m).double()
        check_probabilities("the target's answer", rows)
        self.rows, self.start = rows, len(tokens) - m + 1
        return rows

    def draft(
        self, context: Int[Tensor, "c"], k: int, generator: Generator | None
    ) -> tuple[Int[Tensor, "k"], Float[Tensor, "k v"]]:
        """k codes, one drawn from each row, and the rows."""
        known = self.rows[len(context) - self.start :][:k] if len(context) >= self.start else self.rows[:0]
        flat = torch.full((k - len(known), self.v), 1 / self.v, dtype=torch.float64, device=context.device)
        q = torch.cat([known.to(context.device), flat])
        return context.new_tensor([pick(row, generator) for row in q]), q
