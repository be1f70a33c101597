"""Real data, one small module a source: each gives what its card promises, or an error saying what to do."""

import importlib.util
import pathlib
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8
from PIL import Image
from torch import Tensor


class Labelled(NamedTuple):
    """Images in [0, 1] with their labels: row i shows a `classes[labels[i]]`."""

    images: Float[Tensor, "n c H W"]
    labels: Int64[Tensor, " n"]
    classes: tuple[str, ...]


def check_choice(argument: str, value: str, choices: tuple[str, ...]) -> None:
    """Raises `ValueError`, naming the argument and what it may be, when `value` is not among `choices`."""
    if value not in choices:
        raise ValueError(f"{argument}={value!r} is not one of {', '.join(choices)}")


def check_split(split: str, splits: tuple[str, ...] = ("train", "test")) -> None:
    """Raises `ValueError` when `split` is not among `splits`."""
    check_choice("split", split, splits)


def check_limit(limit: int | None) -> None:
    """Raises `ValueError` when `limit` is neither None nor a count of at least 1."""
    if limit is not None and limit < 1:
        raise ValueError(f"limit={limit} is below 1: give None for all, or how many to take")


def pixels(array: UInt8[np.ndarray, "*rows H W c"]) -> Float[Tensor, "*rows c H W"]:
    """Bytes with the channels last as float32 in [0, 1] with the channels first.

    >>> pixels(np.array([[[0, 51, 255]]], dtype=np.uint8)).flatten()
    tensor([0.0000, 0.2000, 1.0000])
    """
    return torch.tensor(array).movedim(-1, -3).contiguous().float().div_(255)


def square(image: Image.Image, size: int) -> UInt8[np.ndarray, "{size} {size} c"]:
    """The largest centred square of a picture, resized with Lanczos' filter."""
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    cut = image.crop((left, top, left + side, top + side))
    return np.asarray(cut.resize((size, size), Image.Resampling.LANCZOS))


def packaged(package: str, *parts: str) -> pathlib.Path:
    """The path of a data file inside an installed package, which is not imported for it.

    Raises `ModuleNotFoundError` without the package, `FileNotFoundError` when this version lacks the file.
    """
    found = importlib.util.find_spec(package)
    if found is None or not found.submodule_search_locations:
        raise ModuleNotFoundError(f"the package {package} is not installed, and {parts[-1]} is a file of it")
    path = pathlib.Path(found.submodule_search_locations[0], *parts)
    if not path.is_file():
        raise FileNotFoundError(f"the installed {package} lacks {'/'.join(parts)}: install a version that has it")
    return path
