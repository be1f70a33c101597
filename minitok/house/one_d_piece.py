"""`one_d_piece`: `titok` with tail token drop, and nothing else changed: any prefix of its 64 tokens is a picture."""

import pathlib

from torch import nn

from minitok.house import _one_d
from minitok.house._common import Options
from minitok.house.tokenizer import DATA
from minitok.image.one_d_piece import OneDPiece

__all__ = ["DATA", "PLAN", "build", "measure", "quick", "train"]

PLAN = _one_d.PLAN
build = OneDPiece
quick = _one_d.quick


def train(folder: pathlib.Path, options: Options) -> nn.Module:
    """By each view's error in decibels, from as many tokens as the step's draw leaves."""
    return _one_d.train(build(), folder, options)


def measure(model: OneDPiece) -> dict[str, float]:
    """Test photographs from prefixes of their tokens."""
    return _one_d.measure(model) | quick(model)
