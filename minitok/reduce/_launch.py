"""What fast paths share: sizes of blocks, and when numbers may be looked at."""

import torch
from torch import Tensor

from minitok.checks import readable
from minitok.devices import interpreted


def power(size: int, least: int = 1) -> int:
    """The power of two that holds so many.

    >>> power(9), power(1, least=16)
    (16, 16)
    """
    return 1 << (max(size, least) - 1).bit_length()


def seen(x: Tensor) -> bool:
    """Whether numbers can be looked at, which a CUDA graph cannot hold."""
    return readable(x) and not (x.is_cuda and torch.cuda.is_current_stream_capturing())


def check_launch(name: str, x: Tensor, n: int, reference: str) -> None:
    """Raises `ValueError` for what a kernel cannot take: more than 16,384 tokens, float64, and no GPU."""
    if n > 16_384:
        raise ValueError(f"{name} has n={n} tokens, expected at most 16384: a row is in registers")
    if x.dtype == torch.float64:
        raise ValueError(f"{name} of type torch.float64 came, expected float32 or half precision")
    if x.device.type != "cuda" and not interpreted():
        raise ValueError(f"{name} is on {x.device.type}: this function runs on a GPU, {reference} anywhere")
