"""What reductions stand on: checks, which raise a `ValueError` that says what came, sums in float32, and places."""

import torch
from torch import Tensor

from minitok.checks import check_finite, readable, whole


def check_tokens(x: Tensor, k: int) -> None:
    """Raises `ValueError` unless x is a finite floating-point (b, n, c) and k a whole number from 1 to n."""
    if x.dim() != 3:
        raise ValueError(f"x of shape {tuple(x.shape)} came, expected (b, n, c)")
    check_signal("x", x, (None, None, None))
    check_budget(k, x.shape[1])


def check_budget(k: int, n: int) -> None:
    """Raises `ValueError` unless k is a whole number from 1 to n."""
    try:
        whole("k", k, 1, n)
    except ValueError:
        raise ValueError(f"k={k} came, expected a whole number from 1 to the {n} tokens of x") from None


def check_signal(name: str, signal: Tensor, shape: tuple[int | None, ...]) -> None:
    """Raises `ValueError` unless a signal is floating point, finite and of this shape, where None is any size."""
    fits = signal.dim() == len(shape) and all(e in (None, s) for s, e in zip(signal.shape, shape, strict=True))
    if not fits:
        expected = ", ".join("any" if size is None else str(size) for size in shape)
        raise ValueError(f"{name} of shape {tuple(signal.shape)} came, expected ({expected})")
    if not signal.is_floating_point():
        raise ValueError(f"{name} of type {signal.dtype} came, expected floating point")
    check_finite(name, signal)


def check_asked(asked: Tensor, shape: tuple[int, int]) -> None:
    """Raises `ValueError` unless `asked` says of each row's words which are there, and some are in each."""
    if tuple(asked.shape) != shape or asked.dtype != torch.bool:
        came = f"asked of shape {tuple(asked.shape)} and type {asked.dtype} came"
        raise ValueError(f"{came}, expected booleans of shape {shape}")
    if readable(asked) and not asked.any(1).all():
        raise ValueError("asked has a row without a word")


def check_whole(name: str, numbers: Tensor, low: int, high: int) -> None:
    """Raises `ValueError` unless the numbers are whole, (b, any), and lie from `low` to `high`."""
    if numbers.dim() != 2:
        raise ValueError(f"{name} of shape {tuple(numbers.shape)} came, expected 2 dimensions")
    if numbers.is_floating_point() or numbers.is_complex() or numbers.dtype == torch.bool:
        raise ValueError(f"{name} of type {numbers.dtype} came, expected whole numbers")
    if not readable(numbers) or numbers.numel() == 0:
        return
    if int(numbers.min()) < low or int(numbers.max()) > high:
        found = f"from {int(numbers.min())} to {int(numbers.max())}"
        raise ValueError(f"{name} {found} came, expected {low} to {high}")


def check_rows(name: str, x: Tensor, shape: tuple[int, int]) -> None:
    """Raises `ValueError` unless x is (b, rows, any) for the b and the rows of `shape`."""
    if x.dim() != 3 or tuple(x.shape[:2]) != shape:
        raise ValueError(f"{name} of shape {tuple(x.shape)} came, expected ({shape[0]}, {shape[1]}, c)")


def check_weights(weights: Tensor, totals: Tensor) -> None:
    """Raises `ValueError` for a negative weight, and for an output whose weights add up to nothing."""
    if not readable(weights, totals):
        return
    if (weights < 0).any():
        raise ValueError(f"weights down to {float(weights.min()):.3g} came, expected at least 0")
    if (totals <= 0).any():
        raise ValueError("weights leave an output empty, expected some weight in each")


def precise(x: Tensor) -> Tensor:
    """In float32, or finer where it is: half precision would take wrong decisions and lose sums."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def product(matrix: Tensor, x: Tensor) -> Tensor:
    """`matrix @ x` in float32 or finer, in the type of x."""
    wide = precise(x)
    return (matrix.to(wide.dtype) @ wide).to(x.dtype)


def around(inner: Tensor, n: int, before: int, after: int) -> Tensor:
    """Whole numbers (b, any) that speak of n places, set between those of `before` and `after` places beside them."""
    places = torch.arange(before + n + after, device=inner.device).expand(len(inner), -1)
    return torch.cat([places[:, :before], inner, places[:, before + n :]], dim=1)
