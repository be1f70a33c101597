"""Max-min choice on a GPU in one launch: the fast path of `divprune.max_min`.

The choice is a chain: each pick depends on the one before, and each step is so small that a loop of torch calls spends
its time on launches. Here one program makes all k picks of a batch row. Every token's distance to its nearest chosen
token stays in registers; a step reads one row of the distances and finds the largest. The distances themselves, and
the first pick, come from torch: a matrix product fills the whole GPU, a chain of picks one processor of it.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from jaxtyping import Float, Int
from torch import Tensor

from minitok.devices import interpreted
from minitok.reduce.divprune import most_apart

__all__ = ["max_min"]


@triton.jit
def _max_min(distance, first, out, n, k, N: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    tokens = tl.arange(0, N)
    valid = tokens < n
    reach = tl.where(valid, float("inf"), float("-inf"))
    pick = tl.load(first + row)
    for i in range(k):
        tl.store(out + row * k + i, pick)
        line = tl.load(distance + (row * n + pick) * n + tokens, mask=valid, other=float("-inf"))
        # A chosen token is never chosen again, even when all that are left are its copies.
        reach = tl.where(tokens == pick, float("-inf"), tl.minimum(reach, line.to(tl.float32)))
        pick = tl.argmax(reach, 0).to(tl.int64)


def max_min(distance: Float[Tensor, "b n n"], k: int) -> Int[Tensor, "b k"]:
    """The same picks in the same order as `divprune.max_min`, for distances on a GPU; n at most 16,384.

    Raises `ValueError` as the reference does, for more tokens, for float64, which the kernel would round, and, unless
    Triton interprets its kernels, for a tensor that is not on a GPU.
    """
    if distance.shape[-1] > 16_384:
        raise ValueError(f"distance has n={distance.shape[-1]} tokens, expected at most 16384: a row is in registers")
    first = most_apart(distance, k)
    b, n, _ = distance.shape
    if distance.dtype == torch.float64:
        raise ValueError("distance of type torch.float64 came, expected float32 or half precision")
    if distance.device.type != "cuda" and not interpreted():
        raise ValueError(
            f"distance is on {distance.device.type}: this function runs on a GPU, divprune.max_min anywhere"
        )
    out = torch.empty(b, k, dtype=torch.int64, device=distance.device)
    if b:
        N = 1 << (n - 1).bit_length()
        sizes: dict[str, Any] = {"N": N, "num_warps": max(1, min(32, N // 256))}
        _max_min[(b,)](distance.contiguous(), first, out, n, k, **sizes)
    return out
