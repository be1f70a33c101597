"""What all quantizers share: the triple that they return, the straight-through gradient, the checks of input."""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor


class Quantized(NamedTuple):
    """What `forward` of a quantizer returns: values to decode from, codes to store, and the loss to train with."""

    values: Float[Tensor, "b n d"]
    codes: Int[Tensor, "b n g"]
    loss: Float[Tensor, ""]


def straight_through(z: Tensor, z_q: Tensor) -> Tensor:
    """The value of `z_q` with the gradient of `z`: the step between them counts as the identity (arXiv 1308.3432)."""
    return z + (z_q - z).detach()


def check_vectors(z: Tensor, d: int) -> None:
    """Raises `ValueError` unless z is a floating-point (b, n, d) without NaN or infinity."""
    if z.dim() != 3 or z.shape[-1] != d:
        raise ValueError(f"z of shape {tuple(z.shape)} came, expected (b, n, {d})")
    if not z.is_floating_point():
        raise ValueError(f"z of type {z.dtype} came, expected floating point")
    if not torch.compiler.is_compiling() and not z.isfinite().all():
        raise ValueError("z holds NaN or infinity")


def check_codes(codes: Tensor, groups: int, K: int) -> None:
    """Raises `ValueError` unless codes are whole numbers (b, n, groups) in 0..K-1."""
    if codes.dim() != 3 or codes.shape[-1] != groups:
        raise ValueError(f"codes of shape {tuple(codes.shape)} came, expected (b, n, {groups})")
    if codes.is_floating_point():
        raise ValueError(f"codes of type {codes.dtype} came, expected whole numbers")
    if codes.numel() and not (int(codes.min()) >= 0 and int(codes.max()) < K):
        raise ValueError(f"codes from {int(codes.min())} to {int(codes.max())} came, expected 0 to {K - 1}")
