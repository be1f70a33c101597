"""The contract of chapter 2, held by every method of it that the registry knows and the tree has.

A tokenizer is the one class of its module that has `bits`, which is built from `Sizes`; one that draws its pictures has
a `seed` in `decode`, and `walk` after the draw. Those that are shipped trained carry their slug in the house.
"""

import importlib
import inspect
import itertools

import pytest
import torch
from torch import nn

from minitok import house, papers
from minitok.data import photographs
from minitok.image._common import Tokens
from minitok.image.titok import Sizes
from minitok.metrics import psnr

METHODS = [row.slug for row in papers.rows("image") if papers.places(row.slug)["module"].exists()]
# Other than every default.
SIZES = Sizes(size=16, patch=4, tokens=8, width=24, layers=2, heads=2)


def test_the_registry_finds_methods():
    assert {"titok", "one_d_piece", "flextok"} <= set(METHODS)


def build(slug: str, seed: int = 0) -> nn.Module:
    """A small tokenizer with every gate open, as after training, so that pictures depend on all that is read."""
    module = importlib.import_module(f"minitok.image.{slug}")
    classes = [c for _, c in inspect.getmembers(module, inspect.isclass) if hasattr(c, "bits")]
    found = [c for c in classes if c.__module__ == module.__name__]
    assert len(found) == 1, f"{slug}: expected one class with bits, found {found}"
    torch.manual_seed(seed)
    shallow = {"layers": 1} if "layers" in inspect.signature(found[0]).parameters else {}
    model = found[0](SIZES, **shallow).eval()
    for parameter in model.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.3)
    return model.requires_grad_(False)


@pytest.fixture(params=METHODS)
def tokenizer(request) -> nn.Module:
    return build(request.param)


@pytest.fixture
def images() -> torch.Tensor:
    return torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def one(tokens: Tokens, row: int) -> Tokens:
    """The tokens of one image, which decode with the same draws in each row."""
    return Tokens(tokens.codes[row : row + 1], tokens.layout)


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
    first, second = (tokenizer.decode(one(tokens, row)) for row in (0, 1))
    assert (first - second).abs().max() > 1e-4


def test_pictures_depend_on_every_token(tokenizer, images):
    tokens = one(tokenizer.encode(images), 0)
    picture, other = tokenizer.decode(tokens), tokenizer.encode(1 - images).codes[1]
    for i in (tokens.codes[0] != other).any(-1).nonzero().flatten().tolist():
        changed = tokens.codes.clone()
        changed[0, i] = other[i]
        assert (tokenizer.decode(Tokens(changed, tokens.layout)) - picture).abs().max() > 1e-6, i


def test_a_prefix_decodes(tokenizer, images):
    tokens = tokenizer.encode(images[:1])
    if len(tokens.layout) != 1:
        pytest.skip("a grid has no prefixes")
    for k in (1, 3, len(tokens)):
        assert tokenizer.decode(tokens[:k]).shape == (1, 3, 16, 16)


def test_rows_of_a_batch_do_not_see_each_other(tokenizer, images):
    tokens, others = tokenizer.encode(images), images.clone()
    others[[0, 2]] = torch.rand(2, 3, 16, 16)
    changed = tokenizer.encode(others)
    assert torch.equal(changed.codes[1], tokens.codes[1])
    assert torch.equal(tokenizer.encode(images[1:2]).codes, tokens.codes[1:2])
    torch.testing.assert_close(tokenizer.decode(changed)[1], tokenizer.decode(tokens)[1], atol=1e-5, rtol=0)


@pytest.mark.parametrize("slug", METHODS)
def test_the_stored_weights_restore_a_tokenizer_of_other_sizes_than_by_default(slug, images):
    tokenizer, other = build(slug), build(slug, seed=1)
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


@pytest.mark.parametrize(("dtype", "share", "apart"), [(torch.bfloat16, 0.7, 0.05), (torch.float16, 0.9, 0.01)])
def test_half_precision_changes_few_codes_and_hardly_a_picture(tokenizer, images, dtype, share, apart):
    tokens = tokenizer.encode(images)
    picture = tokenizer.decode(tokens)
    tokenizer.to(dtype)
    for given in (images, images.to(dtype)):
        assert (tokenizer.encode(given).codes == tokens.codes).float().mean() > share
    decoded = tokenizer.decode(tokens)
    assert decoded.dtype == torch.float32
    assert (decoded - picture).abs().mean() < apart
    assert all(x.isfinite().all() for x in tokenizer.train()(images.to(dtype)))


def test_all_is_made_on_the_device_of_the_input(tokenizer, images):
    tokenizer.to("meta")
    tokens = tokenizer.encode(images.to("meta"))
    assert tokens.codes.device.type == tokenizer.decode(tokens).device.type == "meta"
    assert all(x.device.type == "meta" for x in tokenizer.train()(images.to("meta")))


SHIPPED = [slug for slug in METHODS if slug in house.OF_LESSONS]


@pytest.mark.slow
@pytest.mark.parametrize("slug", SHIPPED)
def test_quality_does_not_fall_as_more_tokens_are_read(slug):
    model, crops = house.load(slug), photographs.crops(4, 64)
    tokens = model.encode(crops)
    figures = [float(psnr(model.decode(tokens[:k]), crops).mean()) for k in (1, 8, len(tokens))]
    assert figures[0] + 1 < figures[1] < figures[2] - 1
    card = house.card(slug)["figures"]
    held_out = [card[f"PSNR from {2**i} tokens (dB)"] for i in range(7)]
    assert all(after > before for before, after in itertools.pairwise(held_out))
