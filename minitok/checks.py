"""Checks of what users give: whole numbers, and finite ones. Each error names the argument and what came."""

import math
import operator
from typing import Any

import torch
from torch import Tensor


def readable(*tensors: Tensor) -> bool:
    """Whether the numbers in tensors can be looked at: not inside `torch.compile`, and not on the meta device."""
    return not torch.compiler.is_compiling() and not any(tensor.is_meta for tensor in tensors)


def whole(name: str, number: Any, low: int, high: int | None = None) -> int:
    """`number` as an int, if it is one of Python, of NumPy or of a tensor, no truth value, and in the range.

    >>> whole("k", torch.tensor(3), 1, 8)
    3

    Raises `ValueError` otherwise; `high=None` sets no upper end.
    """
    truth = isinstance(number, bool) or (isinstance(number, Tensor) and number.dtype == torch.bool)
    try:
        found = None if truth else operator.index(number)
    except TypeError:
        found = None
    if found is None or found < low or (high is not None and found > high):
        span = f"of at least {low}" if high is None else f"from {low} to {high}"
        raise ValueError(f"{name}={number!r} came, expected a whole number {span}")
    return found


def finite(x: Tensor) -> bool:
    """Whether all numbers are finite; taken for granted where they cannot be looked at."""
    return not readable(x) or bool(x.isfinite().all())


def check_finite(name: str, numbers: Tensor | float) -> None:
    """Raises `ValueError` for NaN and infinity, in a tensor or alone."""
    if not isinstance(numbers, Tensor):
        if not math.isfinite(numbers):
            raise ValueError(f"{name}={numbers} came, expected a finite number")
    elif not finite(numbers):
        raise ValueError(f"{name} holds NaN or infinity")


def check_logits(name: str, logits: Tensor) -> None:
    """Raises `ValueError` unless the largest of each row's logits is finite; -infinity rules an entry out."""
    if not logits.numel() or finite(highest := logits.amax(-1)):  # NaN if any of its row is
        return
    bad = tuple((~highest.isfinite()).nonzero()[0].tolist())
    where = f"the highest of row {bad[0] if len(bad) == 1 else bad} is {float(highest[bad])}"
    raise ValueError(f"{name} holds NaN, infinity, or a row in which nothing is possible: {where}")
