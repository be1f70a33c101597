"""What speculative methods check of their input: contexts, probabilities and drafts."""

import torch
from torch import Tensor


def check_context(tokens: Tensor) -> None:
    """Raises `ValueError` unless tokens are one row of whole numbers."""
    if tokens.dim() != 1:
        raise ValueError(f"context of shape {tuple(tokens.shape)} came, expected (n,)")
    if tokens.is_floating_point() or tokens.dtype == torch.bool:
        raise ValueError(f"context of type {tokens.dtype} came, expected whole numbers")


def wide(x: Tensor) -> Tensor:
    """At least float32: half precision is too coarse for sums of squares."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def check_probabilities(name: str, rows: Tensor) -> None:
    """Raises `ValueError` unless the last axis holds probabilities, but for rounding."""
    if not bool((rows >= 0).all()) or bool(((rows.double().sum(-1) - 1).abs() > 0.01).any()):
        raise ValueError(f"{name} holds rows that are no probabilities: negative, NaN, or not of sum 1")


def check_draft(p: Tensor, q: Tensor, drafted: Tensor) -> None:
    """Raises `ValueError` unless p (k + 1, v) and q (k, v) hold probabilities, and drafted (k) what q can give."""
    if drafted.dim() != 1 or drafted.is_floating_point():
        raise ValueError(
            f"drafted of shape {tuple(drafted.shape)} and {drafted.dtype} came, expected (k,) whole numbers"
        )
    for name, rows, count in (("p", p, len(drafted) + 1), ("q", q, len(drafted))):
        if rows.dim() != 2 or rows.shape != (count, p.shape[-1]):
            raise ValueError(
                f"{name} of shape {tuple(rows.shape)} came for {len(drafted)} drafted, expected ({count}, v)"
            )
        check_probabilities(name, rows)
    v = p.shape[-1]
    if drafted.numel() and not (int(drafted.min()) >= 0 and int(drafted.max()) < v):
        raise ValueError(f"drafted from {int(drafted.min())} to {int(drafted.max())} came, expected 0 to {v - 1}")
    if not bool((q.gather(-1, drafted[:, None]) > 0).all()):
        raise ValueError("drafted holds a token to which q gives no probability")
