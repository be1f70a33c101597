"""Compiles what the methods of chapters 2 and 4 offer, each as one graph, and compares; run by test_compiled.py.

In a process of its own, since torch cannot compile through the checks of annotations that tests are run with.
"""

import inspect
from collections.abc import Callable
from typing import Any

import test_generate
import test_image
import torch

from minitok.image import Tokens
from minitok.nn import Cache


def agree(name: str, function: Callable[..., Any], *inputs: Any) -> None:
    """Ends with an error unless the function gives the same when it is compiled into one graph."""
    whole = torch.compile(function, fullgraph=True, backend="eager")(*inputs)
    assert torch.allclose(whole, function(*inputs), atol=1e-4), name
    print(name)


def image(slug: str) -> None:
    """Coding, painting and the training step; who draws noise, which no graph can, paints after the draw."""
    model, images = test_image.build(slug), torch.rand(2, 3, 16, 16)
    tokens = model.encode(images)
    agree(f"{slug} encode", lambda x: model.encode(x).codes, images)
    if "seed" in inspect.signature(model.decode).parameters:
        agree(f"{slug} walk", lambda x, z: model.walk(x, z, 1, 1.5), images, model.quantizer.decode(tokens.codes))
    else:
        agree(f"{slug} decode", lambda codes: model.decode(Tokens(codes, tokens.layout)), tokens.codes)
    torch.compile(model.train(), fullgraph=True, backend="eager")(images)
    print(f"{slug} forward")


def generate(slug: str) -> None:
    """The logits of a whole picture, and those of the first group after the class."""
    model, labels = test_generate.build(slug), torch.tensor([0, 2])
    codes = torch.randint(model.K, (2, model.schedule.n))
    agree(f"{slug} forward", model, codes, labels)
    agree(f"{slug} step", lambda new, labels: model.step(new, labels, Cache()), codes[:, :0], labels)


for slug in test_image.METHODS:
    image(slug)
for slug in test_generate.METHODS:
    generate(slug)
