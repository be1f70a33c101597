"""`titok`: 64x64 photographs to 64 tokens of 12 bits (96 bytes), all of which are needed to paint them again."""

import pathlib

from torch import nn

from minitok.house import _one_d
from minitok.house._common import Options
from minitok.house.tokenizer import DATA
from minitok.image.titok import TiTok

__all__ = ["DATA", "PLAN", "build", "measure", "quick", "train"]

PLAN = _one_d.PLAN
build = TiTok
quick = _one_d.quick


def train(folder: pathlib.Path, options: Options) -> nn.Module:
    """By each view's error in decibels."""
    return _one_d.train(build(), folder, options)


def measure(model: TiTok) -> dict[str, float]:
    """Test photographs from prefixes of their tokens, never met in training."""
    return _one_d.measure(model) | quick(model)
