"""Max-min choice on a GPU in one launch: the fast path of `divprune.max_min` and `divprune.divprune`.

The choice is a chain: each pick depends on the one before, and each step is so small that a loop of torch calls spends
its time on launches. Here one program makes all k picks of a batch row. Every token's distance to its nearest chosen
token stays in registers; a step reads one row of the distances and finds the largest. The distances themselves come
from torch: a matrix product fills the whole GPU, a chain of picks one processor of it. Of tokens, the products are all
that is written; one pass over them finds each token's nearest other one, and the chain reads them as they are.
"""

from typing import Any

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from jaxtyping import Float, Int
from torch import Tensor

from minitok.reduce._common import Kept, check_tokens, precise
from minitok.reduce._launch import check_launch, power, seen
from minitok.reduce.divprune import most_apart

__all__ = ["divprune", "max_min"]


@triton.jit
def _nearest(cosine, nearest, n, N: tl.constexpr):
    """How far the nearest other token is; NaN where a product is."""
    row, tokens = tl.program_id(0).to(tl.int64), tl.arange(0, N)
    line = tl.load(cosine + row * n + tokens, mask=tokens < n, other=0.0)
    # A maximum passes over NaN, a sum does not.
    spoilt = tl.sum(line, 0) * 0
    closest = tl.max(tl.where((tokens < n) & (tokens != row % n), line, float("-inf")), 0)
    tl.store(nearest + row, 1 - closest + spoilt)


@triton.jit
def _walk(
    table, start, out, n, k, N: tl.constexpr, COSINE: tl.constexpr
):  # fmt: skip
    """The k picks of a batch row: of distances in their order, of cosines in the order of the input."""
    row = tl.program_id(0).to(tl.int64)
    tokens = tl.arange(0, N)
    valid = tokens < n
    reach = tl.where(valid, float("inf"), float("-inf"))
    if COSINE:
        pick = tl.argmax(tl.load(start + row * n + tokens, mask=valid, other=float("-inf")), 0).to(tl.int64)
    else:
        pick = tl.load(start + row)
    for i in range(k):
        if not COSINE:
            tl.store(out + row * k + i, pick)
        line = tl.load(table + (row * n + pick) * n + tokens, mask=valid, other=float("-inf")).to(tl.float32)
        if COSINE:
            line = 1 - line
        # A chosen token is never chosen again, even when all that are left are its copies.
        reach = tl.where(tokens == pick, float("-inf"), tl.minimum(reach, line))
        pick = tl.argmax(reach, 0).to(tl.int64)
    if COSINE:
        chosen = valid & (reach == float("-inf"))
        tl.store(out + row * k + tl.cumsum(chosen.to(tl.int32), 0) - 1, tokens.to(tl.int64), mask=chosen)


def max_min(distance: Float[Tensor, "b n n"], k: int) -> Int[Tensor, "b k"]:
    """The same picks in the same order as `divprune.max_min`, for distances on a GPU; n at most 16,384.

    Raises `ValueError` as the reference does, for more tokens, for float64, which the kernel would round, and, unless
    Triton interprets its kernels, for a tensor that is not on a GPU.
    """
    check_launch("distance", distance, distance.shape[-1], "divprune.max_min")
    first = most_apart(distance, k)
    return walk(distance, first, k, cosine=False)


def divprune(x: Float[Tensor, "b n c"], k: int) -> Kept:
    """The tokens that `divprune.divprune` keeps, in the order of the input, for tokens on a GPU; n at most 16,384.

    Where two tokens are equally far within rounding, the other may be kept. Raises `ValueError` as the reference does
    and as `max_min` does. Inside a CUDA graph, where numbers cannot be looked at, they are taken to be finite.
    """
    check_tokens(x.to("meta"), k)
    check_launch("x", x, x.shape[1], "divprune.divprune")
    b, n, _ = x.shape
    unit = F.normalize(precise(x), dim=-1)
    cosine, nearest = unit @ unit.mT, unit.new_empty(b, n)
    if b:
        sizes: dict[str, Any] = {"N": power(n), "num_warps": 4}
        _nearest[(b * n,)](cosine, nearest, n, **sizes)
        if seen(nearest) and nearest.isnan().any():
            raise ValueError("x holds NaN or infinity")
    return Kept(walk(cosine, nearest, k, cosine=True), n)


def walk(table: Tensor, start: Tensor, k: int, cosine: bool) -> Tensor:
    """The picks of each batch row."""
    b, n, _ = table.shape
    out = torch.empty(b, k, dtype=torch.int64, device=table.device)
    if b:
        sizes: dict[str, Any] = {"N": power(n), "COSINE": cosine, "num_warps": max(1, min(32, power(n) // 256))}
        _walk[(b,)](table.contiguous(), start, out, n, k, **sizes)
    return out
