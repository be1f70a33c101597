"""ToMe's matching and merging on a GPU without writing the similarities: the fast path of `tome.tome`.

A few launches do what a chain of torch calls does. First come the lengths of set B's tokens. Then each program holds a
block of set A's, walks through B by the matrix units, and keeps for each token its nearest partner and how near it is.
Then one program a batch row finds the r strongest edges, bit by bit of the number that divides them from the rest, and
lists the tokens of each output. The last reads the tokens once and writes their means; its sums have one order.
Products of half precision are exact; float32 is normalised first and written as two numbers of float16, of which three
products come as near as float32 does. For few tokens the launches take longer than the work: a CUDA graph holds them.

The floor is the larger of 2 b (n / 2)^2 c operations over the rate of the matrix units and the bytes, tokens read once
and what is left of them written once, over the bandwidth.
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
import triton
from jaxtyping import Float, Int
from torch import Tensor

from minitok.checks import readable
from minitok.devices import interpreted
from minitok.reduce import _tome_kernels as kernels
from minitok.reduce._checks import around, check_rows
from minitok.reduce._common import Merged, check_signal, check_tokens, precise
from minitok.reduce._launch import check_launch, power, seen

__all__ = ["match", "tome"]


@dataclass(frozen=True)
class Listed(Merged):
    """A merge that also lists the tokens of each output: a head, and where among the members its others begin."""

    lists: Int[Tensor, "b 3 k"]
    members: Int[Tensor, "b m"]
    alike: bool

    def apply(self, x: Float[Tensor, "b n c"]) -> Float[Tensor, "b k c"]:
        """In one launch; where gradients are wanted, and of float64, as the reference does it."""
        b, k, n = self.shape
        check_rows("x", x, (b, n))
        if (x.requires_grad and torch.is_grad_enabled()) or x.dtype == torch.float64:
            return super().apply(x)
        x, c, m = x.contiguous(), x.shape[2], self.members.shape[1]
        out = x.new_empty(b, k, c)
        if out.numel():
            weights, sizes = self.weights if self.alike else self.weights.contiguous(), means(c, self.alike)
            kernels.merge[(b * k,)](x, weights, out, self.lists, self.members, n, k, m, c, **sizes)
        return out

    def beside(self, before: int = 1, after: int = 0) -> "Listed":
        wide, n = super().beside(before, after), self.shape[2]
        head = around(self.lists[:, 0] + before, n, before, after)[:, None]
        lists = torch.cat([head, F.pad(self.lists[:, 1:], (before, after))], 1).int()
        return Listed(wide.assignment, wide.outputs, wide.weights, lists, self.members + before, self.alike)


def listed(assignment: Int[Tensor, "b n"], k: int, weights: Float[Tensor, "b n"], alike: bool) -> Listed:
    """Any merge with its lists, by a sort."""
    members, zeros = assignment.argsort(dim=-1, stable=True), assignment.new_zeros(len(assignment), k)
    count = zeros.scatter_add(1, assignment, torch.ones_like(assignment))
    start = count.cumsum(-1) - count
    lists = torch.stack([members.gather(1, start), start + 1, count - 1], 1)
    return Listed(assignment, k, weights, lists.int(), members.int(), alike)


def step(metric: Float[Tensor, "b n d"], r: int, weights: Float[Tensor, "b n"], alike: bool) -> Listed:
    """The merge of the r strongest edges."""
    b, n, c = metric.shape
    if not 1 <= r <= n // 2:
        raise ValueError(f"r={r} came, expected 1 to {n // 2}, half of the {n} tokens")
    check_launch("metric", metric, n, "that of tome.py")
    A, width = (n + 1) // 2, power((n + 1) // 2, least=16)
    counts = {"dtype": torch.int32, "device": metric.device}
    nearness, partner = torch.empty(b, A, device=metric.device), torch.empty(b, A, **counts)
    assignment, members = torch.empty(b, n, dtype=torch.int64, device=metric.device), torch.empty(b, r, **counts)
    lists = torch.empty(b, 3, n - r, **counts)
    if b:
        high, low, inverse = prepared(metric.contiguous())
        sizes = tiles(c, high is not low)
        kernels.match[(b * triton.cdiv(A, sizes["ROWS"]),)](high, low, inverse, nearness, partner, n, c, **sizes)
        line: dict[str, Any] = {"SIZE": width, "num_warps": max(1, min(32, width // 64))}
        kernels.choose[(b,)](nearness, partner, assignment, lists, members, n, r, **line)
        if seen(partner) and int(partner.amin()) < 0:
            raise ValueError("what is compared holds NaN or infinity, or its products do")
    return Listed(assignment, n - r, weights, lists, members, alike)


def prepared(metric: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of float32 two parts in float16; half precision as it is, and one over B's lengths."""
    b, n, c = metric.shape
    # Triton's interpreter has no products of bfloat16.
    if metric.dtype == torch.float32 or (metric.dtype == torch.bfloat16 and interpreted()):
        high, low = torch.empty(2, b, n, c, dtype=torch.float16, device=metric.device)
        sizes: dict[str, Any] = {"C": power(c)}
        kernels.split[(b * n,)](metric.float(), high, low, c, **sizes)
        return high, low, high
    inverse, sizes = torch.empty(b, n // 2, device=metric.device), {"ROWS": 4 if c <= 2048 else 1, "C": power(c)}
    kernels.lengths[(triton.cdiv(inverse.numel(), sizes["ROWS"]),)](metric, inverse, n, c, inverse.numel(), **sizes)
    return metric, metric, inverse


def match(metric: Float[Tensor, "b n d"], r: int) -> Int[Tensor, "b n"]:
    """One step, as `tome.match`, for tensors on a GPU; n at most 16,384.

    Where two edges are equally strong within rounding, the other may count. Raises `ValueError` as the reference does,
    for NaN and infinity, for float64, which the kernel would round, for more tokens, and, unless Triton interprets its
    kernels, for a tensor that is not on a GPU. Inside a CUDA graph, where numbers cannot be looked at, they are taken
    to be finite.
    """
    return step(metric, r, metric[..., 0], alike=True).assignment


def tome(
    x: Float[Tensor, "b n c"],
    k: int,
    *,
    keys: Float[Tensor, "b g n d"] | None = None,
    size: Float[Tensor, "b n"] | None = None,
) -> Listed:
    """The merge that `tome.tome` makes, for tensors on a GPU, which applies itself in one launch.

    Raises `ValueError` as the reference and as `match` do; where there are keys, x is not searched for NaN.
    """
    # Of tensors without numbers only shapes and types are checked: the kernels look at the numbers.
    check_tokens(x.to("meta"), k)
    b, n, _ = x.shape
    metric = x
    if keys is not None:
        check_signal("keys", keys.to("meta"), (b, None, n, None))
        metric = precise(keys).mean(1)
    if size is not None:
        check_signal("size", size, (b, n))
        if readable(size) and (size <= 0).any():
            raise ValueError(f"size from {float(size.min()):.3g} came, expected above 0")
    weights = torch.ones(1, 1, device=x.device).expand(b, n) if size is None else precise(size)
    return rounds(metric, k, weights, alike=size is None)


def rounds(metric: Float[Tensor, "b n d"], k: int, weights: Float[Tensor, "b n"], alike: bool) -> Listed:
    """Steps until k tokens are left, each of which takes away at most half of what is left."""
    b, left, _ = metric.shape
    if 0 < left - k <= left // 2:
        return step(metric, left - k, weights, alike)
    assignment, sizes, even = torch.arange(left, device=metric.device).repeat(b, 1), weights, alike
    while left > k:
        made = step(metric, min(left - k, left // 2), sizes, even)
        assignment, left = made.assignment.gather(1, assignment), made.outputs
        metric, sizes, even = made.apply(precise(metric)), made.totals()[..., 0], False
    return listed(assignment, k, weights, alike)


def tiles(c: int, split: bool) -> dict[str, Any]:
    """Tokens of A and of B in a block, channels at a time, whether these end where c ends, warps, stages of loading."""
    if interpreted():
        return {"ROWS": 32, "COLS": 16, "DEPTH": 32, "EVEN": c % 32 == 0, "SPLIT": split}
    depth = 32 if split else 64
    sizes = {"ROWS": 128, "COLS": 256, "DEPTH": depth, "EVEN": c % depth == 0, "SPLIT": split}
    return sizes | {"num_warps": 8, "num_stages": 3 if split else 4}


def means(c: int, alike: bool) -> dict[str, Any]:
    """Channels of a block, tokens at a time, whether all weigh alike, warps."""
    return {"C": power(c), "SOME": 2, "ALIKE": alike, "num_warps": max(1, min(8, power(c) // 512))}
