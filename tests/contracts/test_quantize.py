"""The contract of chapter 1, held by every method of it that the registry knows and the tree has.

A quantizer is the one class of its module that has `bits`; it is built without arguments and says its width, `d`.
"""

import copy
import importlib
import inspect
import math
from typing import Any

import pytest
import torch
from torch import nn

from minitok import papers
from minitok.metrics import difference

NOT_RETURNING = {
    "FSQ": "its values are scaled to [-1, 1], and encode takes what lies before the squash",
    "RVQ": "a sum of stages may be reached by another path, since each stage takes its own nearest",
}
# Other settings than the defaults, with which a module is built again before its state is loaded.
OTHERWISE = {
    "FSQ": {"levels": (7, 5)},
    "LFQ": {"d": 5, "entropy": 0.3, "commitment": 1.0, "temperature": 1.0},
    "RVQ": {"d": 3, "K": 20, "stages": 2, "commitment": 1.0},
    "TokenBridge": {"d": 3, "levels": 9},
    "VQ": {"d": 3, "K": 20, "commitment": 1.0},
    "WeTok": {"d": 6, "groups": 3, "entropy": 0.3, "commitment": 1.0, "temperature": 1.0},
}
HALF = [torch.bfloat16, torch.float16]
METHODS = [row.slug for row in papers.rows("quantize") if papers.places(row.slug)["module"].exists()]


def test_the_registry_finds_methods():
    assert "vq" in METHODS


def class_of(slug: str) -> Any:
    """The quantizer of a module: its one class that has `bits`."""
    module = importlib.import_module(f"minitok.quantize.{slug}")
    found = [c for _, c in inspect.getmembers(module, inspect.isclass) if hasattr(c, "bits")]
    assert len(found) == 1, f"{slug}: expected one class with bits, found {found}"
    return found[0]


@pytest.fixture(params=METHODS)
def kind(request) -> type[nn.Module]:
    return class_of(request.param)


@pytest.fixture
def quantizer(kind) -> nn.Module:
    torch.manual_seed(0)
    return kind().eval()


@pytest.fixture
def z(quantizer) -> torch.Tensor:
    return torch.randn(3, 50, quantizer.d, generator=torch.Generator().manual_seed(1))


def test_decoding_codes_gives_the_values_of_forward(quantizer, z):
    values, codes, _ = quantizer(z)
    assert torch.equal(quantizer.decode(quantizer.encode(z)), values)
    assert torch.equal(quantizer.encode(z), codes)


# `z + (z_q - z)` is another number than z_q where z is large.
@pytest.mark.parametrize("size", [1.0, 300.0, 10_000.0])
@pytest.mark.parametrize("given", [torch.float64, torch.float32, *HALF])
@pytest.mark.parametrize("cast", [torch.float64, torch.float32, *HALF])
def test_values_are_those_of_the_codes_to_the_last_bit_in_every_dtype(quantizer, z, cast, given, size):
    quantizer = quantizer.to(cast)
    values, codes, loss = quantizer((size * z).to(given))
    assert torch.equal(values, quantizer.decode(codes))
    assert values.dtype == quantizer.decode(codes).dtype == cast
    assert loss.isfinite()
    assert loss.dtype in (torch.float32, torch.float64)


@pytest.mark.parametrize("dtype", HALF)
def test_a_module_in_half_precision_gives_the_codes_of_its_weights_in_float32(quantizer, z, dtype):
    half = copy.deepcopy(quantizer).to(dtype)
    single, z = copy.deepcopy(half).float(), z.to(dtype)
    found, expected = half(z), single(z.float())
    assert torch.equal(found.codes, expected.codes)
    torch.testing.assert_close(found.values.float(), expected.values, rtol=2**-8, atol=1e-6)
    torch.testing.assert_close(found.loss, expected.loss, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("dtype", HALF)
def test_half_precision_takes_other_codes_only_where_weights_were_rounded(quantizer, z, dtype):
    same = copy.deepcopy(quantizer).to(dtype).encode(z) == quantizer.encode(z)
    assert same.float().mean() > (0.9 if list(quantizer.parameters()) else 0.9999)


def compiled_in_one_piece(slug: str) -> float:
    """How far what a method's three functions return, compiled, is from what they return otherwise."""
    layer = class_of(slug)()
    z = torch.randn(3, 50, layer.d)
    apart = []
    for function, given in ((layer, z), (layer.encode, z), (layer.decode, layer.encode(z))):
        found = torch.compile(function, fullgraph=True, backend="eager")(given)
        pairs = zip(*(t if isinstance(t, tuple) else [t] for t in (found, function(given))), strict=True)
        apart += [difference(ours, theirs) for ours, theirs in pairs]
    return max(apart)


def test_everything_stays_on_the_device_of_the_input(quantizer, z):
    # What is made without a device would now be made elsewhere, and could not meet the vectors.
    with torch.device("meta"):
        values, codes, loss = quantizer(z)
        assert {t.device.type for t in (values, codes, loss, quantizer.encode(z), quantizer.decode(codes))} == {"cpu"}


def test_equal_vectors_have_equal_codes_in_every_batch(quantizer, z):
    codes = quantizer.encode(z)
    assert torch.equal(quantizer.encode(z[1:2]), codes[1:2])
    assert torch.equal(quantizer.encode(z.flatten(0, 1)[:, None]), codes.flatten(0, 1)[:, None])
    again = quantizer.encode(torch.cat([z, z.flip(1)], 1))
    assert torch.equal(again[:, :50], codes)
    assert torch.equal(again[:, 50:].flip(1), codes)


def test_codes_are_whole_numbers_in_range(quantizer, z):
    codes = quantizer.encode(z)
    assert codes.shape[:2] == z.shape[:2]
    assert not codes.is_floating_point()
    groups = codes.shape[2]
    assert codes.min() >= 0
    assert codes.max() < 2 ** math.ceil(quantizer.bits / groups)


@pytest.mark.parametrize("dtype", [torch.int16, torch.int32, torch.uint8])
@pytest.mark.usefixtures("unchecked")
def test_codes_may_be_kept_in_fewer_bits(quantizer, z, dtype):
    codes = quantizer.encode(z)
    codes = codes % 2 if dtype == torch.uint8 else codes
    assert torch.equal(quantizer.decode(codes.to(dtype)), quantizer.decode(codes))


def test_codes_survive_the_way_through_their_vectors(quantizer, z):
    codes = quantizer.encode(z)
    values = quantizer.decode(codes)
    if reason := NOT_RETURNING.get(type(quantizer).__name__):
        pytest.skip(reason)
    assert torch.equal(quantizer.encode(values), codes)


def test_gradients_reach_the_input(quantizer, z):
    z.requires_grad_()
    values, _, loss = quantizer(z)
    (values.square().sum() + loss).backward()
    assert z.grad is not None
    assert z.grad.isfinite().all()
    assert (z.grad.abs().sum(-1) > 0).float().mean() > 0.9


def test_rows_of_a_batch_do_not_see_each_other(quantizer, z):
    torch.testing.assert_close(quantizer(z[1:2]).values, quantizer(z).values[1:2], atol=1e-6, rtol=0)


def test_tokens_do_not_see_each_other(quantizer, z):
    order = torch.randperm(50)
    assert torch.equal(quantizer.encode(z[:, order]), quantizer.encode(z)[:, order])


@pytest.mark.parametrize("cut", [lambda z: z[:, :0], lambda z: z[:0], lambda z: z[:1, :1]])
def test_the_input_may_be_empty_or_one_token(quantizer, z, cut):
    values, codes, loss = quantizer(cut(z))
    assert values.shape == cut(z).shape
    assert codes.shape[:2] == values.shape[:2]
    assert loss.shape == ()
    assert quantizer.decode(codes).shape == values.shape


def test_more_than_one_code_is_used(quantizer, z):
    assert len({tuple(code) for code in quantizer.encode(z).flatten(0, 1).tolist()}) > 10


@pytest.mark.parametrize("dtype", HALF)
def test_vectors_in_half_precision_have_the_codes_of_their_own_numbers(quantizer, z, dtype):
    values, codes, loss = quantizer(z.to(dtype))
    assert values.isfinite().all()
    assert loss.isfinite()
    assert torch.equal(codes, quantizer.encode(z.to(dtype).float()))


@pytest.mark.parametrize("settings", ["default", "other"])
def test_the_stored_weights_are_all_that_a_codec_built_alike_needs(kind, settings):
    given = OTHERWISE[kind.__name__] if settings == "other" else {}
    layer, other = kind(**given).eval(), kind(**given).eval()
    z = 2 + torch.randn(3, 200, layer.d)
    for learn in ("start_from", "fit_range"):
        if hasattr(layer, learn):
            getattr(layer, learn)(z if settings == "other" else 3 * z)
    other.load_state_dict(layer.state_dict())
    for ours, theirs in zip(other(z), layer(z), strict=True):
        assert torch.equal(ours, theirs)
    assert torch.equal(other.decode(other.encode(z)), layer.decode(layer.encode(z)))


def test_other_settings_are_other_settings(kind):
    layer, default = kind(**OTHERWISE[kind.__name__]), kind()
    assert (layer.d, layer.bits) != (default.d, default.bits)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (lambda z: z[0], "shape"),
        (lambda z: z[..., :-1], "shape"),
        (lambda z: z.long(), "floating point"),
        (lambda z: z / 0, "NaN or infinity"),
        (lambda z: z.masked_fill(torch.arange(50)[:, None] == 7, torch.nan), "NaN or infinity"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_bad_vectors_are_refused(quantizer, z, bad, message):
    for method in (quantizer.encode, quantizer):
        with pytest.raises(ValueError, match=f"^z .*{message}"):
            method(bad(z))


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (lambda c: c[0], "shape"),
        (lambda c: torch.cat([c, c], -1), "shape"),
        (lambda c: c.float(), "whole numbers"),
        (lambda c: c > 0, "whole numbers"),
        (lambda c: c - 10**6, "expected 0 to"),
        (lambda c: c + 10**6, "expected 0 to"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_bad_codes_are_refused(quantizer, z, bad, message):
    with pytest.raises(ValueError, match=f"^codes .*{message}"):
        quantizer.decode(bad(quantizer.encode(z)))
