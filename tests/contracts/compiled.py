"""Compiles what the root and the methods of chapters 1, 2 and 4 to 7 offer, each as one graph, and compares.

Run by test_compiled.py, in a process of its own, as users have it: torch cannot compile
through the checks of annotations that tests are run with. One for all, since torch's compiler is slow to import.
"""

import importlib
import inspect
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import test_generate
import test_image
import test_project
import test_quantize
import test_reduce
import test_root
import test_speculate
import torch

from minitok.image import Tokens
from minitok.nn import Cache, Shape

# As few layers as there can be: the compiler follows every line of each.
test_image.SIZES = replace(test_image.SIZES, layers=1)
test_generate.SHAPE, test_root.SMALL = replace(test_generate.SHAPE, layers=2), replace(test_root.SMALL, layers=1)


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


def near(name: str, apart: float) -> None:
    """Ends with an error unless what was compiled is so near to what was not."""
    assert apart < 1e-5, (name, apart)
    print(name)


for slug in test_image.METHODS:
    image(slug)
for slug in test_generate.METHODS:
    generate(slug)
for slug in test_quantize.METHODS:
    torch.compiler.reset()
    near(slug, test_quantize.compiled_in_one_piece(slug))
for slug in test_reduce.METHODS:
    if slug not in test_reduce.NOT_COMPILED:
        torch.compiler.reset()
        near(slug, test_reduce.compiled_in_one_piece(slug))
for slug, name in test_reduce.LEARNED.items():
    model = getattr(importlib.import_module(f"minitok.reduce.{slug}"), name)(Shape(32, 4, 2)).eval()
    agree(f"{slug} forward", model, torch.rand(2, 3, 64, 64))
for slug in test_project.METHODS:
    if slug not in test_project.NOT_COMPILED:
        torch.compiler.reset()
        near(slug, test_project.compiled_in_one_piece(slug))
for slug, function in test_speculate.COMPILED:
    torch.compiler.reset()
    near(f"{slug} {function}", test_speculate.compiled_in_one_piece(slug, function))
agree("root checks", test_root.checked, torch.ones(2), 3)
for network in test_root.NETWORKS:
    near(f"root {network}", test_root.compiled_whole(network))
