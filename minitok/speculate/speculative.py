"""Speculative decoding: a small model drafts, the large one judges many tokens in one call, and nothing changes.

Leviathan, Kalman, Matias: Fast Inference from Transformers via Speculative Decoding, 2022, arXiv 2211.17192.

Mechanism: a draft model with probabilities q proposes k tokens; one call of the target gives its probabilities p at
all of them. From the left, a drafted x is kept with probability `min(1, p(x) / q(x))`; at the first refusal the token
is drawn from `norm(max(0, p - q))` instead, after k kept ones from p (algorithm 1). What comes out has exactly the
target's distribution (appendix A.1). A token is kept with probability `alpha = sum of min(p, q)` (theorem 3.5), and
where alpha is the same everywhere a call yields `(1 - alpha^(k+1)) / (1 - alpha)` tokens in the mean (equation 1).
Differs from the paper: k stands for its gamma; the last calls draft fewer tokens, so that exactly n come out.
Notebook: notebooks/05_speculate/01_speculative.ipynb
"""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor

from minitok.speculate._checks import check_draft
from minitok.speculate._common import happens, pick

LOSSLESS = True

Acceptance = Callable[[Tensor, Tensor, int], float]
Residual = Callable[[Tensor, Tensor, int], Tensor]


def acceptance(p: Float[Tensor, "v"], q: Float[Tensor, "v"], x: int) -> float:
    """The probability that a token x, drawn from q, is kept: `min(1, p(x) / q(x))`.

    >>> acceptance(torch.tensor([0.25, 0.75]), torch.tensor([0.5, 0.5]), 0)
    0.5

    Source: section 2.3. Raises `ValueError` where q(x) is 0: such an x cannot have been drawn.
    """
    if q[x] <= 0:
        raise ValueError(f"q gives token {x} the probability {float(q[x])}, so it cannot have been drawn from q")
    return min(1.0, float(p[x] / q[x]))


def residual(p: Float[Tensor, "v"], q: Float[Tensor, "v"], x: int) -> Float[Tensor, "v"]:
    """The probabilities to draw from when x was refused: what p has above q, scaled to sum 1; the same for every x.

    >>> residual(torch.tensor([0.25, 0.75]), torch.tensor([0.5, 0.5]), 0).tolist()
    [0.0, 1.0]

    Source: section 2.3, `p' = norm(max(0, p - q))`. Where p is nowhere above q nothing is ever refused but by a
    rounding error; then it is p.
    """
    above = (p - q).clamp(min=0)
    # No branch, so that a compiler follows; 0 / 0 is not taken.
    return torch.where(above.sum() > 0, above / above.sum(), p)


def accept(
    p: Float[Tensor, "k1 v"], q: Float[Tensor, "k v"], drafted: Int[Tensor, "k"], generator: Generator | None = None
) -> tuple[int, int]:
    """How many of k drafted tokens are kept, and the token that the target adds after them.

    >>> p = torch.tensor([[0.0, 1.0], [1.0, 0.0], [0.0, 1.0]])
    >>> accept(p, p[:2], torch.tensor([1, 0])), accept(p, 1 - p[:2], torch.tensor([0, 1]))
    ((2, 1), (0, 1))

    Source: algorithm 1. Raises `ValueError` where p, q and drafted do not fit together.
    """
    return verify(p, q, drafted, acceptance, residual, generator)


def verify(
    p: Float[Tensor, "k1 v"],
    q: Float[Tensor, "k v"],
    drafted: Int[Tensor, "k"],
    acceptance: Acceptance,
    residual: Residual,
    generator: Generator | None = None,
) -> tuple[int, int]:
    """`accept` by any rule: token x of row i is kept with probability `acceptance(p[i], q[i], x)`.

    At the first that is not kept the token is drawn from `residual(p[i], q[i], x)`, after k kept ones from the last row
    of p. `p` and `q` are probabilities of any floating type, judged in float64. Source: algorithm 1, its last steps.
    """
    check_draft(p, q, drafted)
    p, q = p.double(), q.double()
    for i, x in enumerate(drafted.tolist()):
        if not happens(acceptance(p[i], q[i], x), generator):
            return i, pick(residual(p[i], q[i], x), generator)
    return len(drafted), pick(p[-1], generator)


def induced(
    p: Float[Tensor, "v"], q: Float[Tensor, "v"], acceptance: Acceptance, residual: Residual
) -> Float[Tensor, "v"]:
    """The probabilities of the token that comes out of one test, summed over all drafts and outcomes in float64.

    >>> p, q = torch.tensor([0.25, 0.75]), torch.tensor([0.5, 0.5])
    >>> induced(p, q, acceptance, residual).tolist()
    [0.25, 0.75]

    `sum over x of q(x) (a(x) [x] + (1 - a(x)) residual_x)`, where `[x]` puts all on x: appendix A.1 as a computation.
    """
    p, q = p.double(), q.double()
    law = torch.zeros_like(p)
    for x in q.nonzero().flatten().tolist():
        a = acceptance(p, q, x)
        law[x] += q[x] * a
        if a < 1:
            law += q[x] * (1 - a) * residual(p, q, x)
    return law


def overlap(p: Float[Tensor, "*b v"], q: Float[Tensor, "*b v"]) -> Float[Tensor, "*b"]:
    """The probability that a token drawn from q is kept: the sum of `min(p, q)`, one minus the total variation.

    >>> overlap(torch.tensor([0.25, 0.75]), torch.tensor([0.5, 0.5])).item()
    0.75

    Source: theorem 3.5.
    """
    return torch.minimum(p, q).sum(-1)


def expected_tokens(alpha: float | int, k: int) -> float:
    """Tokens a call of the target in the mean, if each of k drafted ones is kept with probability alpha: 1 to k + 1.

    >>> expected_tokens(0.5, 2)
    1.75

    Source: equation 1. Raises `ValueError` for an alpha outside [0, 1] or a negative k.
    """
    if not 0 <= alpha <= 1 or k < 0:
        raise ValueError(f"alpha={alpha} and k={k} came, expected alpha in [0, 1] and k from 0")
    return float(k + 1) if alpha == 1 else (1 - alpha ** (k + 1)) / (1 - alpha)


def operations(alpha: float | int, k: int, cost: float | int) -> float:
    """How many times as many operations n tokens take, if the draft takes `cost` times those of the target a token.

    >>> operations(0.5, 2, cost=0.25)
    2.0

    Source: theorem 3.11. Raises `ValueError` for a negative cost.
    """
    if cost < 0:
        raise ValueError(f"cost={cost} came, expected at least 0")
    return (k * cost + k + 1) / expected_tokens(alpha, k)


def improvement(alpha: float | int, k: int, cost: float | int) -> float:
    """How many times sooner n tokens are there, if a call of the draft takes `cost` calls of the target.

    >>> improvement(0.5, 2, cost=0.25)
    1.1666666666666667

    It takes the target to judge k + 1 tokens in the time of one. Source: theorem 3.8. Raises `ValueError` for a
    negative cost.
    """
    if cost < 0:
        raise ValueError(f"cost={cost} came, expected at least 0")
    return expected_tokens(alpha, k) / (k * cost + 1)
