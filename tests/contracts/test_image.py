"""The contract of chapter 2, held by every method of it that the registry knows and the tree has.

A tokenizer is the one class of its module that has `bits`, which is built without arguments.
"""

import importlib
import inspect
import itertools

import pytest
import torch
from torch import nn

from minitok import house, papers
from minitok.data import clothing
from minitok.house import _one_d
from minitok.image._common import Tokens
from minitok.metrics import psnr

METHODS = [row.slug for row in papers.rows("image") if papers.places(row.slug)["module"].exists()]


def test_the_registry_finds_methods():
    assert {"titok", "one_d_piece", "flextok"} <= set(METHODS)


@pytest.fixture(params=METHODS)
def tokenizer(request) -> nn.Module:
    module = importlib.import_module(f"minitok.image.{request.param}")
    classes = [c for _, c in inspect.getmembers(module, inspect.isclass) if hasattr(c, "bits")]
    found = [c for c in classes if c.__module__ == module.__name__]
    assert len(found) == 1, f"{request.param}: expected one class with bits, found {found}"
    torch.manual_seed(0)
    return found[0]().eval()


@pytest.fixture
def images() -> torch.Tensor:
    return torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(1))


def test_tokens_and_images_have_the_promised_shapes(tokenizer, images):
    tokens = tokenizer.encode(images)
    assert isinstance(tokens, Tokens)
    assert tokens.codes.shape[0] == 3
    assert len(tokens) == torch.tensor(tokens.layout).prod()
    decoded = tokenizer.decode(tokens)
    assert decoded.shape == images.shape
    assert decoded.dtype == torch.float32
    assert ((decoded >= 0) & (decoded <= 1)).all()


def test_bits_are_counted(tokenizer, images):
    codes = tokenizer.encode(images).codes
    assert not codes.is_floating_point()
    assert codes.min() >= 0
    assert codes.max() < 2 ** -(-tokenizer.bits // codes.shape[2])


def test_the_same_image_gives_the_same_tokens_and_these_the_same_image(tokenizer, images):
    tokens = tokenizer.encode(images)
    torch.manual_seed(5)
    assert torch.equal(tokenizer.encode(images).codes, tokens.codes)
    assert torch.equal(tokenizer.decode(tokens), tokenizer.decode(tokens))


def test_different_images_have_different_tokens_and_these_different_images(tokenizer, images):
    tokens = tokenizer.encode(images)
    assert not torch.equal(tokens.codes[0], tokens.codes[1])


def test_a_prefix_decodes(tokenizer, images):
    tokens = tokenizer.encode(images[:1])
    if len(tokens.layout) != 1:
        pytest.skip("a grid has no prefixes")
    for k in (1, 3, len(tokens)):
        assert tokenizer.decode(tokens[:k]).shape == (1, 3, 64, 64)


def test_rows_of_a_batch_do_not_see_each_other(tokenizer, images):
    tokens, others = tokenizer.encode(images), images.clone()
    others[[0, 2]] = torch.rand(2, 3, 64, 64)
    changed = tokenizer.encode(others)
    assert torch.equal(changed.codes[1], tokens.codes[1])
    assert torch.equal(tokenizer.encode(images[1:2]).codes, tokens.codes[1:2])
    torch.testing.assert_close(tokenizer.decode(changed)[1], tokenizer.decode(tokens)[1], atol=1e-5, rtol=0)


def test_the_stored_weights_are_all_that_a_codec_needs(tokenizer, images):
    other = type(tokenizer)().eval()
    other.load_state_dict(tokenizer.state_dict())
    tokens = tokenizer.encode(images[:1])
    assert torch.equal(other.encode(images[:1]).codes, tokens.codes)
    assert torch.equal(other.decode(tokens), tokenizer.decode(tokens))


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (lambda x: x[0], "shape"),
        (lambda x: x[..., :-1], "shape"),
        (lambda x: x[:, :1], "shape"),
        (lambda x: x.round().long(), "floating point"),
        (lambda x: x / 0, "NaN or infinity"),
        (lambda x: x * 2 - 1, r"expected values in \[0, 1\]"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_bad_images_are_refused(tokenizer, images, bad, message):
    with pytest.raises(ValueError, match=f"^images .*{message}"):
        tokenizer.encode(bad(images))


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (lambda tokens: tokens.codes, "type Tensor"),
        (lambda tokens: Tokens(tokens.codes, (7,)), "layout"),
        (lambda tokens: Tokens(tokens.codes[0], tokens.layout), "shape"),
        (lambda tokens: Tokens(tokens.codes[:, :0], tokens.layout), "shape"),
        (lambda tokens: Tokens(tokens.codes + 10**6, tokens.layout), "expected 0 to"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_bad_tokens_are_refused(tokenizer, images, bad, message):
    with pytest.raises(ValueError, match=f"^(tokens|codes) .*{message}"):
        tokenizer.decode(bad(tokenizer.encode(images)))


# Those that are shipped trained and promise that a prefix is a picture.
@pytest.mark.slow
@pytest.mark.parametrize("slug", ["one_d_piece"])
@pytest.mark.skipif(not clothing.at_hand(), reason="the photographs of clothes are not at hand")
def test_quality_does_not_fall_as_more_tokens_are_read(slug):
    model, photographs = house.load(slug), clothing.load("test").images[::12]
    codes = model.encode(photographs).codes
    figures = [float(psnr(_one_d.rebuilt(model, codes, k), photographs).mean()) for k in (1, 2, 4, 8, 16, 32, 64)]
    assert all(after > before for before, after in itertools.pairwise(figures))
    assert figures[-1] - figures[0] > 6
