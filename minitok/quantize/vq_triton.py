"""The nearest code on a GPU without writing the n x K distances: the fast path of `vq.nearest`.

Each program holds a block of vectors and walks through the codebook. A block of scores `|e|^2 - 2 z.e` comes from the
matrix units (TF32 for float32), and only the best two codes of each vector are kept, so what is read and written is the
vectors, the codebook and the codes. TF32 keeps 10 bits of each factor, which is enough to find the candidates where the
codebook's `centre` is taken off both (vectors in the kernel, codes before it), not always to tell the nearest of two:
the last step measures both candidates again in float32, as they came, and keeps the nearer.

The floor is the larger of 2 n K d operations over the rate of the matrix units and the bytes over the bandwidth.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from jaxtyping import Float, Int
from torch import Tensor

from minitok.checks import readable
from minitok.devices import interpreted
from minitok.quantize.vq import centre

__all__ = ["nearest"]


@triton.jit
def _exact(z, codebook, rows, codes, d, valid, D: tl.constexpr):
    """|z - e|^2 of each row and its candidate, in float32."""
    channels = tl.arange(0, D)
    inside = valid[:, None] & (channels < d)[None, :]
    x = tl.load(z + rows[:, None] * d + channels[None, :], mask=inside, other=0.0).to(tl.float32)
    e = tl.load(codebook + codes[:, None] * d + channels[None, :], mask=inside, other=0.0).to(tl.float32)
    return tl.sum((x - e) * (x - e), 1)


@triton.jit
def _nearest(
    z, codebook, middle, centred, squares, out, n, K, d, D: tl.constexpr, ROWS: tl.constexpr, CODES: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    rows = (tl.program_id(0) * ROWS + tl.arange(0, ROWS)).to(tl.int64)
    valid, channels = rows < n, tl.arange(0, D)
    x = tl.load(z + rows[:, None] * d + channels[None, :], mask=valid[:, None] & (channels < d)[None, :], other=0.0)
    x = x.to(tl.float32) - tl.load(middle + channels, mask=channels < d, other=0.0)[None, :]
    x = (x * -2).to(centred.dtype.element_ty)
    first = tl.full((ROWS,), float("inf"), tl.float32)
    second = tl.full((ROWS,), float("inf"), tl.float32)
    best, other = tl.zeros((ROWS,), tl.int32), tl.zeros((ROWS,), tl.int32)
    for start in range(0, K, CODES):
        codes = start + tl.arange(0, CODES)
        inside = (codes < K)[:, None] & (channels < d)[None, :]
        e = tl.load(centred + codes[:, None] * d + channels[None, :], mask=inside, other=0.0)
        square = tl.load(squares + codes, mask=codes < K, other=float("inf"))
        score = tl.dot(x, tl.trans(e), input_precision=PRECISION) + square[None, :]
        value, place = tl.min(score, 1, return_indices=True)
        place += start
        nearer, runner = value < first, value < second
        other = tl.where(nearer, best, tl.where(runner, place, other))
        second = tl.where(nearer, first, tl.where(runner, value, second))
        best, first = tl.where(nearer, place, best), tl.where(nearer, value, first)
    own = _exact(z, codebook, rows, best, d, valid, D)
    rival = _exact(z, codebook, rows, other, d, valid, D)
    # Of equally near codes the lower number wins, as in the reference.
    swap = (rival < own) | ((rival == own) & (other < best))
    code = tl.where(swap, other, best)
    # NaN is not below infinity either.
    finite = tl.minimum(own, rival) < float("inf")
    tl.store(out + rows, tl.where(finite, code, -1).to(tl.int64), mask=valid)


def nearest(z: Float[Tensor, "b n d"], codebook: Float[Tensor, "K d"]) -> Int[Tensor, "b n"]:
    """The row of the codebook that is nearest to each vector, as `vq.nearest`, for tensors on a GPU.

    float32, float16 or bfloat16, both of one type; d at most 128. A code may come that is farther than the nearest, by
    at most 2 % of `|z| |e|` from the codebook's centre, z and e the longest there: so much may products be rounded, and
    they decide alone between codes of one block (each block has one candidate) and where three are as near. Raises
    `ValueError` for an empty codebook, types or widths that do not fit, NaN, infinity and numbers whose square is
    infinite, and, unless Triton interprets its kernels, for tensors that are not on a GPU.
    """
    b, n, d = z.shape
    K = len(codebook)
    check(z, codebook)
    z, codebook = z.contiguous(), codebook.contiguous()
    out = torch.empty(b, n, dtype=torch.int64, device=z.device)
    if out.numel():
        middle = centre(codebook.float())
        # Triton's interpreter has no products of bfloat16.
        coarse = torch.float32 if interpreted() and z.dtype == torch.bfloat16 else z.dtype
        centred = (codebook.float() - middle).to(coarse)
        squares = centred.float().pow(2).sum(-1)
        sizes = tiles(max(16, 1 << (d - 1).bit_length()), K, z.element_size())
        grid = (triton.cdiv(b * n, sizes["ROWS"]),)
        _nearest[grid](z, codebook, middle, centred, squares, out, b * n, K, d, **sizes)
        if readable(out) and (out.amin() < 0) | ~squares.isfinite().all():
            raise ValueError("the distance of z and codebook holds NaN or infinity")
    return out


def tiles(D: int, K: int, size: int) -> dict[str, Any]:
    """Rows and codes of a block, the precision of the products, warps, stages of loading.

    In a small codebook the two best codes often share a block, so that only one is measured again: there each product
    is made of three of TF32, which is as good as float32 and costs little.
    """
    if interpreted():
        return {"D": D, "ROWS": 32, "CODES": 16, "PRECISION": "ieee"}
    if K < 2048:
        return {"D": D, "ROWS": 64, "CODES": 32, "PRECISION": "tf32x3", "num_warps": 4, "num_stages": 1}
    # The fastest of eleven shapes that were tried on an H100 with d = 64.
    codes, stages = (128 if size == 2 else 64), (3 if D <= 64 else 2)
    return {"D": D, "ROWS": 64, "CODES": codes, "PRECISION": "tf32", "num_warps": 4, "num_stages": stages}


def check(z: Tensor, codebook: Tensor) -> None:
    """Raises `ValueError` for what the kernel cannot read."""
    if len(codebook) == 0:
        raise ValueError("the codebook is empty: expected at least one row")
    if z.shape[-1] != codebook.shape[-1]:
        raise ValueError(f"z has d={z.shape[-1]} channels, the codebook {codebook.shape[-1]}")
    if z.shape[-1] > 128:
        raise ValueError(f"d={z.shape[-1]} came, expected at most 128 channels")
    if z.dtype != codebook.dtype or z.dtype not in (torch.float32, torch.float16, torch.bfloat16):
        raise ValueError(f"z of {z.dtype} and a codebook of {codebook.dtype} came, expected one floating type of both")
    if z.device.type != "cuda" and not interpreted():
        raise ValueError(f"z is on {z.device.type}: this function runs on a GPU, minitok.quantize.vq.nearest anywhere")
