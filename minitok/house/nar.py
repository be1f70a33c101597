"""`nar`: draws a photograph of a given class diagonal by diagonal: 31 calls of the model where `image_gpt` takes 256.

Width, number of layers, tied code vectors, data, steps and batch are those of `image_gpt`; what differs is the order,
what a token sees, its place (row and column), and the two heads.
"""

import pathlib

from torch import nn

from minitok.generate.nar import NAR
from minitok.house import image_gpt
from minitok.house._common import Options
from minitok.nn import Shape

DATA, PLAN = image_gpt.DATA, image_gpt.PLAN


def build() -> NAR:
    """4 million parameters: a trunk of 4 layers with the right head, one more layer for the head below."""
    return NAR(Shape(width=224, layers=5, heads=4, dropout=0.1))


def train(folder: pathlib.Path, options: Options) -> nn.Module:
    """Cross-entropy of each code given the class and the diagonals before its own."""
    return image_gpt.train_on_views(build(), options.apply(PLAN), folder, options)


quick, measure = image_gpt.quick, image_gpt.generates
