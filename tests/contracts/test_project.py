"""The contract of chapter 7, held by every projector that the registry knows and the tree has.

A projector is the one `nn.Module` of its module whose name is in the chapter's `__all__`; it is built without
arguments for 256 features of 192 channels, and `budgets` says which numbers of tokens it can give (all, for a module
without). The signals that its `forward` asks for by name are given.
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
LOCAL = {"tokenpacker"}


def test_the_registry_finds_methods():
    assert "llava" in METHODS


@pytest.fixture(params=METHODS)
def slug(request) -> str:
    return request.param


def build(slug: str) -> nn.Module:
    module = importlib.import_module(f"minitok.project.{slug}")
    classes = inspect.getmembers(module, lambda c: inspect.isclass(c) and issubclass(c, nn.Module))
    found = [c for name, c in classes if name in project.__all__ and c.__module__ == module.__name__]
    assert len(found) == 1, f"{slug}: expected one projector in minitok.project.__all__, found {found}"
    torch.manual_seed(0)
    return found[0]().eval().requires_grad_(False)


@pytest.fixture
def projector(slug) -> nn.Module:
    return build(slug)


def budgets(projector: nn.Module) -> list[int]:
    return list(getattr(projector, "budgets", (256,)))


@pytest.fixture
def x() -> torch.Tensor:
    return torch.randn(3, 256, 192, generator=torch.Generator().manual_seed(1))


def asked_for(projector: nn.Module) -> dict[str, torch.Tensor]:
    shapes = {"text": (3, 7, 192), "levels": (3, 6, 256, 192), "cls": (3, 192), "images": (3, 3, 64, 64)}
    made = {name: torch.randn(shape, generator=torch.Generator().manual_seed(2)) for name, shape in shapes.items()}
    made["asked"] = torch.arange(7) > torch.tensor([[2], [0], [-1]])
    return {name: made[name] for name in inspect.signature(projector.forward).parameters if name in made}


@pytest.fixture
def signals(projector) -> dict[str, torch.Tensor]:
    return asked_for(projector)


def test_the_promised_number_of_tokens_comes(projector, x, signals):
    for k in budgets(projector):
        assert projector(x, k, **signals).shape == (3, k, 192)
    assert projector(x, **signals).shape[1] == max(budgets(projector))


def test_another_budget_is_refused(projector, x, signals):
    wrong = max(budgets(projector)) + 1
    with pytest.raises(ValueError, match=f"k={wrong}"):
        projector(x, wrong, **signals)


def test_rows_of_a_batch_do_not_see_each_other(projector, x, signals):
    k = budgets(projector)[0]
    mine = projector(x, k, **signals)
    other = {name: torch.cat([value[:1], value[1:].flip(0)]) for name, value in {"x": x, **signals}.items()}
    torch.testing.assert_close(projector(other.pop("x"), k, **other)[0], mine[0])
    assert not torch.allclose(projector(torch.cat([x[:1], x[1:] + torch.randn(192)]), k, **signals)[1], mine[1])


def test_a_nested_projector_begins_alike_for_every_budget(slug, projector, x, signals):
    if slug not in NESTED:
        pytest.skip("not a nested one")
    whole = projector(x, **signals)
    for k in budgets(projector):
        torch.testing.assert_close(projector(x, k, **signals), whole[:, :k])


def test_a_region_local_one_does_not_see_outside_its_region(slug, projector, x, signals):
    if slug not in LOCAL:
        pytest.skip("not a region-local one")
    for k in budgets(projector):
        span = round((256 / k) ** 0.5)
        region = torch.arange(256).view(16, 16)[:span, -span:].flatten()
        levels = signals["levels"].clone()
        levels[:, :, region] += torch.randn(192)
        moved = (projector(x, k, levels=levels) - projector(x, k, **signals)).abs().amax(-1) > 1e-6
        assert [row.nonzero().flatten().tolist() for row in moved] == [[16 // span - 1]] * 3


def test_a_text_guided_one_changes_with_the_question_and_not_with_what_fills_it(projector, x, signals):
    if "text" not in signals:
        pytest.skip("not a text-guided one")
    k, asked = min(budgets(projector)), signals["asked"][..., None]  # where all are kept, none is chosen
    for where, same in ((~asked, True), (asked, False)):
        text = torch.where(where, torch.randn(192) * 3, signals["text"])
        found = projector(x, k, **signals | {"text": text})
        assert torch.allclose(found[:2], projector(x, k, **signals)[:2], atol=1e-5) == same


@pytest.mark.parametrize(("dtype", "most"), [(torch.bfloat16, 0.05), (torch.float16, 0.01)])
def test_half_precision_agrees_within_its_rounding(dtype, most, projector, x, signals):
    k = budgets(projector)[0]
    exact = projector(x, k, **signals)
    signals = {name: value if name == "asked" else value.to(dtype) for name, value in signals.items()}
    rounded = projector.to(dtype)(x.to(dtype), k, **signals)
    assert rounded.dtype == dtype
    assert float((rounded.float() - exact).abs().max()) < most * float(exact.abs().max())


def test_all_is_made_on_the_device_of_the_input(projector, x, signals):
    # Whatever is made without a device would now be made elsewhere, and could not meet the features.
    with torch.device("meta"):
        assert all(projector(x, k, **signals).device == x.device for k in budgets(projector))


def test_the_stored_weights_restore_a_projector(projector, x, signals):
    """One that reads with a frozen expert is given the same one: that is no part of what is stored."""
    torch.manual_seed(1)
    other = type(projector)(*getattr(projector, "held", ())).eval().requires_grad_(False)
    other.load_state_dict(projector.state_dict())
    for k in budgets(projector):
        assert torch.equal(other(x, k, **signals), projector(x, k, **signals))


# What cannot be compiled in one piece, and why.
NOT_COMPILED = {"langdc": "the expert speaks word by word until all have said the stop"}


def compiled_in_one_piece(slug: str) -> float:
    """How far what a projector gives, compiled, is from what it gives otherwise; each budget is a graph of its own.

    With `dynamic=None` torch makes a second budget a symbol, of which it can take no root.
    """
    projector, x = build(slug), torch.randn(2, 256, 192)
    signals = {name: value[:2] for name, value in asked_for(projector).items()}
    whole, apart = torch.compile(projector, fullgraph=True, backend="eager", dynamic=False), [0.0]
    for k in {min(budgets(projector)), max(budgets(projector))}:
        apart.append(float((whole(x, k, **signals) - projector(x, k, **signals)).abs().max()))
    return max(apart)


def test_gradients_reach_the_features_and_all_parameters(projector, x, signals):
    """Those that act inside the language model are read by one; gates that begin at zero are opened first."""
    projector.requires_grad_(True)
    x.requires_grad_(True)
    for parameter in projector.parameters():
        if not parameter.any():
            parameter.data.normal_(std=0.02)
    k = budgets(projector)[0]
    (projector(x, k, **signals) * torch.randn(192)).sum().backward()
    if hasattr(projector, "read"):
        host = house.recipe("vlm").build().requires_grad_(False)
        read = seeing.read(projector, seeing.Seen(host, x, torch.rand(3, 3, 64, 64)), torch.ones(3, 4).long(), k)
        (read * torch.randn(192)).sum().backward()
    for tensor in (x, *projector.parameters()):
        assert tensor.grad is not None
        assert bool(tensor.grad.isfinite().all())
        assert bool((tensor.grad != 0).any())
