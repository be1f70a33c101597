"""The contract of chapter 7, held by every projector that the registry knows and the tree has.

A projector is the one `nn.Module` of its module whose name is in the chapter's `__all__`; it is built without
arguments for 256 features of 192 channels, and `budgets` says which numbers of tokens it can give (all, for a module
without).
"""

import importlib
import inspect

import pytest
import torch
from torch import nn

from minitok import house, papers, project
from minitok.stages import seeing

METHODS = [row.slug for row in papers.rows("project") if papers.places(row.slug)["module"].exists()]
NESTED = {"mqt", "pvc"}


def test_the_registry_finds_methods():
    assert "llava" in METHODS


@pytest.fixture(params=METHODS)
def slug(request) -> str:
    return request.param


@pytest.fixture
def projector(slug) -> nn.Module:
    module = importlib.import_module(f"minitok.project.{slug}")
    classes = inspect.getmembers(module, lambda c: inspect.isclass(c) and issubclass(c, nn.Module))
    found = [c for name, c in classes if name in project.__all__]
    assert len(found) == 1, f"{slug}: expected one projector in minitok.project.__all__, found {found}"
    torch.manual_seed(0)
    return found[0]().eval().requires_grad_(False)


def budgets(projector: nn.Module) -> list[int]:
    return list(getattr(projector, "budgets", (256,)))


@pytest.fixture
def x() -> torch.Tensor:
    return torch.randn(3, 256, 192, generator=torch.Generator().manual_seed(1))


def test_the_promised_number_of_tokens_comes(projector, x):
    for k in budgets(projector):
        assert projector(x, k).shape == (3, k, 192)
    assert projector(x).shape[1] == max(budgets(projector))


def test_another_budget_is_refused(projector, x):
    wrong = max(budgets(projector)) + 1
    with pytest.raises(ValueError, match=f"k={wrong}"):
        projector(x, wrong)


def test_rows_of_a_batch_do_not_see_each_other(projector, x):
    k = budgets(projector)[0]
    other = torch.cat([x[:1], x[1:] + 1])
    torch.testing.assert_close(projector(other, k)[0], projector(x, k)[0])
    assert not torch.allclose(projector(other, k)[1], projector(x, k)[1])


def test_a_nested_projector_begins_alike_for_every_budget(slug, projector, x):
    if slug not in NESTED:
        pytest.skip("not a nested one")
    whole = projector(x)
    for k in budgets(projector):
        torch.testing.assert_close(projector(x, k), whole[:, :k])


def test_bfloat16_agrees_within_its_rounding(projector, x):
    k = budgets(projector)[0]
    exact = projector(x, k)
    rounded = projector.bfloat16()(x.bfloat16(), k)
    assert rounded.dtype == torch.bfloat16
    assert float((rounded.float() - exact).abs().max()) < 0.05 * float(exact.abs().max())


def test_gradients_reach_the_features_and_all_parameters(projector, x):
    """Those that act inside the language model are read by one; gates that begin at zero are opened first."""
    projector.requires_grad_(True)
    x.requires_grad_(True)
    for parameter in projector.parameters():
        if not parameter.any():
            parameter.data.normal_(std=0.02)
    k = budgets(projector)[0]
    (projector(x, k) * torch.randn(192)).sum().backward()
    if hasattr(projector, "read"):
        host = house.recipe("vlm").build().requires_grad_(False)
        read = seeing.read(projector, seeing.Seen(host, x, torch.rand(3, 3, 64, 64)), torch.ones(3, 4).long(), k)
        (read * torch.randn(192)).sum().backward()
    for tensor in (x, *projector.parameters()):
        assert tensor.grad is not None
        assert bool(tensor.grad.isfinite().all())
        assert bool((tensor.grad != 0).any())
