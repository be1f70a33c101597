"""The contract of chapter 1, held by every method of it that the registry knows and the tree has.

A quantizer is the one class of its module that has `bits`; it is built without arguments and says its width, `d`.
"""

import importlib
import inspect
import math

import pytest
import torch
from torch import nn

from minitok import papers

NOT_RETURNING = {
    "FSQ": "its values are scaled to [-1, 1], and encode takes what lies before the squash",
    "RVQ": "a sum of stages may be reached by another path, since each stage takes its own nearest",
}
METHODS = [row.slug for row in papers.rows("quantize") if papers.places(row.slug)["module"].exists()]


def test_the_registry_finds_methods():
    assert "vq" in METHODS


@pytest.fixture(params=METHODS)
def quantizer(request) -> nn.Module:
    module = importlib.import_module(f"minitok.quantize.{request.param}")
    found = [c for _, c in inspect.getmembers(module, inspect.isclass) if hasattr(c, "bits")]
    assert len(found) == 1, f"{request.param}: expected one class with bits, found {found}"
    torch.manual_seed(0)
    return found[0]().eval()


@pytest.fixture
def z(quantizer) -> torch.Tensor:
    return torch.randn(3, 50, quantizer.d, generator=torch.Generator().manual_seed(1))


def test_decoding_codes_gives_the_values_of_forward(quantizer, z):
    values, codes, _ = quantizer(z)
    torch.testing.assert_close(quantizer.decode(quantizer.encode(z)), values, atol=1e-6, rtol=0)
    assert torch.equal(quantizer.encode(z), codes)


def test_codes_are_whole_numbers_in_range(quantizer, z):
    codes = quantizer.encode(z)
    assert codes.shape[:2] == z.shape[:2]
    assert not codes.is_floating_point()
    groups = codes.shape[2]
    assert codes.min() >= 0
    assert codes.max() < 2 ** math.ceil(quantizer.bits / groups)


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


def test_bfloat16_gives_finite_values_and_whole_codes(quantizer, z):
    values, codes, loss = quantizer(z.bfloat16())
    assert values.isfinite().all()
    assert loss.isfinite()
    assert torch.equal(codes, quantizer.encode(z.bfloat16().float()))


def test_the_stored_weights_are_all_that_a_codec_needs(quantizer, z):
    other = type(quantizer)().eval()
    other.load_state_dict(quantizer.state_dict())
    codes = other.encode(z)
    assert torch.equal(codes, quantizer.encode(z))
    assert torch.equal(other.decode(codes), quantizer.decode(codes))


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
        (lambda c: c - 10**6, "expected 0 to"),
        (lambda c: c + 10**6, "expected 0 to"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_bad_codes_are_refused(quantizer, z, bad, message):
    with pytest.raises(ValueError, match=f"^codes .*{message}"):
        quantizer.decode(bad(quantizer.encode(z)))
