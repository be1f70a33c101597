"""What all quantizers share: the triple that they return, the straight-through gradient, dtypes, checks of input."""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from minitok.checks import check_finite, readable


class Quantized(NamedTuple):
    """What `forward` of a quantizer returns: values to decode from, codes to store, and the loss to train with."""

    values: Float[Tensor, "b n d"]
    codes: Int[Tensor, "b n g"]
    loss: Float[Tensor, ""]


class WithoutWeights(nn.Module):
    """A quantizer that stores no weights, and still knows the dtype that it was cast to: that of its values.

    What it is built with (levels, groups, ...) is not in its state dict: it is built in the same way, then loaded.
    """

    unit: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("unit", torch.ones(()), persistent=False)


def straight_through(z: Tensor, z_q: Tensor) -> Tensor:
    """The value of `z_q`, bit by bit, with the gradient of `z`: the step between them counts as the identity.

    `z + (z_q - z)`, as it is often written, rounds: where z is large it is not `z_q`. Source: arXiv 1308.3432.
    """
    return z_q.detach() + (z - z.detach()).to(z_q.dtype)


def wide(x: Tensor) -> Tensor:
    """Half precision as float32; float32 and float64 as they are. Distances and losses are computed so."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def check_vectors(z: Tensor, d: int) -> None:
    """Raises `ValueError` unless z is a floating-point (b, n, d) without NaN or infinity."""
    if z.dim() != 3 or z.shape[-1] != d:
        raise ValueError(f"z of shape {tuple(z.shape)} came, expected (b, n, {d})")
    if not z.is_floating_point():
        raise ValueError(f"z of type {z.dtype} came, expected floating point")
    check_finite("z", z)


def check_codes(codes: Tensor, groups: int, K: int) -> None:
    """Raises `ValueError` unless codes are whole numbers (b, n, groups) in 0..K-1."""
    if codes.dim() != 3 or codes.shape[-1] != groups:
        raise ValueError(f"codes of shape {tuple(codes.shape)} came, expected (b, n, {groups})")
    if codes.is_floating_point() or codes.dtype == torch.bool:
        raise ValueError(f"codes of type {codes.dtype} came, expected whole numbers")
    if not readable(codes) or not codes.numel():
        return
    low, high = torch.stack(codes.aminmax()).tolist()
    if low < 0 or high >= K:
        raise ValueError(f"codes from {low} to {high} came, expected 0 to {K - 1}")
