"""The contract of chapter 4, held by every method of it that the registry knows and the tree has.

A generator is the one class of its module that has `step`; it is built from a `Shape`, the number of codes K, of
classes, and the size of its picture: `n` positions or a `side`.
"""

import importlib
import inspect

import pytest
import torch
from torch import nn

from minitok import papers
from minitok.generate._common import Schedule, generate
from minitok.nn import Cache, Shape

METHODS = [row.slug for row in papers.rows("generate") if papers.places(row.slug)["module"].exists()]
SIZES = {"K": 11, "n": 16, "side": 4, "classes": 3}
SHAPE = Shape(width=32, layers=3, heads=2, dropout=0.1)


def test_the_registry_finds_methods():
    assert {"raster", "nar"} <= set(METHODS)


def build(slug: str, seed: int = 0, **sizes: int) -> nn.Module:
    """A small generator whose weights are large enough for its logits to depend on all that it reads."""
    module = importlib.import_module(f"minitok.generate.{slug}")
    own = [c for _, c in inspect.getmembers(module, inspect.isclass) if c.__module__ == module.__name__]
    classes = [c for c in own if hasattr(c, "step")]
    assert len(classes) == 1, f"{slug}: expected one class with step, found {classes}"
    accepted = inspect.signature(classes[0]).parameters
    torch.manual_seed(seed)
    model = classes[0](SHAPE, **{k: v for k, v in (SIZES | sizes).items() if k in accepted}).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(5 if parameter.dim() > 1 else 1)
    return model.requires_grad_(False)


@pytest.fixture(params=METHODS)
def model(request) -> nn.Module:
    return build(request.param)


@pytest.fixture
def codes(model) -> torch.Tensor:
    return torch.randint(model.K, (3, model.schedule.n), generator=torch.Generator().manual_seed(1))


LABELS = torch.tensor([0, 2, 3])


def test_the_groups_partition_the_positions(model):
    groups = model.schedule.groups
    assert sorted(position for group in groups for position in group) == list(range(16))
    assert len(model.schedule) == len(groups) == len([group for group in groups if group])


def test_a_whole_picture_gives_the_logits_of_all_its_codes(model, codes):
    assert model(codes, LABELS).shape == (3, 16, 11)


def test_no_logit_depends_on_its_own_or_a_later_group(model, codes):
    before = model(codes, LABELS)
    for t, group in enumerate(model.schedule.groups):
        changed = codes.clone()
        changed[:, list(group)] = (changed[:, list(group)] + 1) % model.K
        difference = (model(changed, LABELS) - before).abs().amax((0, 2))
        earlier = [k for g in model.schedule.groups[: t + 1] for k in g]
        later = [k for g in model.schedule.groups[t + 1 :] for k in g]
        assert float(difference[earlier].max()) == 0
        assert not later or bool((difference[later] > 1e-3).any())


def test_every_logit_depends_on_the_class(model, codes):
    difference = (model(codes, LABELS) - model(codes, (LABELS + 1) % 4)).abs().amax((0, 2))
    assert (difference > 1e-3).all()


def test_steps_with_a_cache_give_the_logits_of_the_whole_picture(model, codes):
    whole, cache, new = model(codes, LABELS), Cache(), codes[:, :0]
    for group in model.schedule.groups:
        logits = model.step(new, LABELS, cache)
        torch.testing.assert_close(logits, whole[:, list(group)], atol=1e-4, rtol=0)
        new = codes[:, list(group)]


@pytest.mark.parametrize("guidance", [1.0, 2.0])
def test_the_model_is_called_once_a_group(model, guidance):
    calls, seen = [], []
    for block in model.body.blocks:
        block.register_forward_hook(lambda *_: calls.append(1))
    drawn = generate(model, torch.tensor([1, 2]), guidance=guidance, watch=lambda codes: seen.append(codes))
    assert drawn.calls == len(model.schedule) == len(calls) / SHAPE.layers
    ends = torch.tensor([len(group) for group in model.schedule.groups]).cumsum(0).tolist()
    assert [frame.shape[1] for frame in seen] == ends
    assert torch.equal(drawn.codes[:, model.schedule.order], seen[-1])
    for frame, end in zip(seen, ends, strict=True):
        assert torch.equal(frame, seen[-1][:, :end])


def test_one_seed_one_picture(model):
    labels = torch.tensor([0, 1, 2])
    first = generate(model, labels, seed=5).codes
    assert first.shape == (3, 16)
    assert 0 <= int(first.min()) <= int(first.max()) < model.K
    torch.rand(3)
    assert torch.equal(first, generate(model, labels, seed=5).codes)
    assert not torch.equal(first, generate(model, labels, seed=6).codes)


def test_near_temperature_zero_each_code_is_the_likeliest(model):
    labels = torch.tensor([0, 1, 2])
    cold = generate(model, labels, temperature=1e-6).codes
    assert torch.equal(model(cold, labels).argmax(-1), cold)
    assert not torch.equal(cold, generate(model, labels, temperature=3.0).codes)


@pytest.mark.parametrize("g", [0.0, 0.5, 3.0])
def test_guidance_is_the_formula(model, g):
    labels = torch.tensor([0, 1, 2])
    cold = generate(model, labels, temperature=1e-6, guidance=g).codes
    c, u = model(cold, labels), model(cold, torch.tensor([3, 3, 3]))
    assert torch.equal((u + g * (c - u)).argmax(-1), cold)


def test_the_first_code_is_drawn_by_its_probabilities(model):
    many = 2000
    first = generate(model, torch.zeros(many, dtype=torch.long), temperature=2.0, seed=3).codes[:, 0]
    p = (model(torch.zeros(1, 16, dtype=torch.long), torch.tensor([0]))[0, 0] / 2).softmax(-1)
    share = torch.bincount(first, minlength=11) / many
    # five standard errors of each of 11 shares, and a little for the smallest
    assert ((share - p).abs() < 5 * (p * (1 - p) / many).sqrt() + 1 / many).all()


def test_rows_of_a_batch_do_not_see_each_other(model, codes):
    torch.testing.assert_close(model(codes[1:2], LABELS[1:2]), model(codes, LABELS)[1:2], atol=1e-5, rtol=0)


@pytest.mark.parametrize("slug", METHODS)
def test_a_picture_may_have_one_position(slug):
    small = build(slug, n=1, side=1)
    drawn = generate(small, torch.tensor([0, 2]))
    assert drawn.codes.shape == (2, 1)
    assert drawn.calls == 1
    assert small(drawn.codes, torch.tensor([0, 2])).shape == (2, 1, 11)


def test_no_pictures_may_be_asked_for(model):
    assert model(torch.zeros(0, 16, dtype=torch.long), torch.zeros(0, dtype=torch.long)).shape == (0, 16, 11)
    assert generate(model, torch.zeros(0, dtype=torch.long)).codes.shape == (0, 16)


def test_gradients_reach_all_parameters(model, codes):
    model.requires_grad_(True).train()
    nn.functional.cross_entropy(model(codes, LABELS).flatten(0, 1), codes.flatten()).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all()
        assert parameter.grad.abs().sum() > 0, name


def test_dropout_acts_in_training_alone(model, codes):
    assert torch.equal(model(codes, LABELS), model(codes, LABELS))
    model.train()
    assert not torch.equal(model(codes, LABELS), model(codes, LABELS))


@pytest.mark.parametrize(("dtype", "share"), [(torch.bfloat16, 0.05), (torch.float16, 0.01)])
def test_half_precision_gives_nearly_the_same_probabilities(model, codes, dtype, share):
    exact = model(codes, LABELS).log_softmax(-1)
    half = model.to(dtype)(codes, LABELS).float().log_softmax(-1)
    assert half.isfinite().all()
    assert float((half - exact).abs().mean()) < share * float(exact.abs().mean())
    assert generate(model, LABELS[:2], guidance=2.0).codes.shape == (2, 16)


def test_the_stored_weights_restore_a_model_of_other_sizes_than_by_default(model, codes):
    other = build(model.__module__.rpartition(".")[2], seed=1)
    assert not torch.equal(other(codes, LABELS), model(codes, LABELS))
    other.load_state_dict(model.state_dict())
    assert torch.equal(other(codes, LABELS), model(codes, LABELS))
    assert torch.equal(generate(other, LABELS[:2]).codes, generate(model, LABELS[:2]).codes)


def test_all_is_made_on_the_device_of_the_input(model, codes):
    model, codes, labels = model.to("meta"), codes.to("meta"), LABELS.to("meta")
    assert model(codes, labels).device.type == "meta"
    cache, new = Cache(), codes[:, :0]
    for group in model.schedule.groups:
        assert model.step(new, labels, cache).device.type == "meta"
        new = codes[:, list(group)]


class Says:
    """Stands in for a model of two codes in two groups: what it says of each."""

    schedule, classes = Schedule(((0,), (1,))), 1

    def __init__(self, *logits):
        self.logits = iter(logits)

    def step(self, new, labels, cache):
        return torch.tensor([[next(self.logits)]]).expand(len(labels), 1, -1)


NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize("temperature", [1e-3, 1.0])
@pytest.mark.parametrize("guidance", [1.0, 2.0])
@pytest.mark.parametrize("bad", [[0.0, NAN, 0.0], [0.0, INF, 0.0], [-INF, -INF, -INF]])
def test_logits_that_leave_no_probabilities_are_refused(bad, guidance, temperature):
    said = [[0.0, 1.0, 2.0], bad]
    with pytest.raises(ValueError, match=r"^logits of group 1 .* NaN, infinity or all -inf"):
        generate(Says(*said), torch.tensor([0]), guidance=guidance, temperature=temperature)


def test_what_is_ruled_out_is_never_drawn_and_a_tiny_temperature_is_no_infinity():
    codes = generate(Says([0.0, -INF, 0.0], [-INF, 0.0, -INF]), torch.zeros(200, dtype=torch.long)).codes
    assert set(codes[:, 0].tolist()) == {0, 2}
    assert set(codes[:, 1].tolist()) == {1}
    sure = generate(Says([0.0, 1.0, 3.0], [9.0, 1.0, 3.0]), torch.tensor([0]), temperature=1e-40)
    assert sure.codes.tolist() == [[2, 0]]


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (lambda c, y: (c[0], y), r"^codes of shape \(16,\)"),
        (lambda c, y: (c.float(), y), "^codes of type"),
        (lambda c, y: (c + 11, y), "^codes from 11 to"),
        (lambda c, y: (c - 20, y), "^codes from -20 to"),
        (lambda c, y: (torch.cat([c, c], 1), y), "^codes: 32 a picture came"),
        (lambda c, y: (c, y[:2]), "^labels for 2 pictures came, and codes for 3"),
        (lambda c, y: (c, y[:, None]), r"^labels of shape \(3, 1\)"),
        (lambda c, y: (c, y + 1), "^labels from 1 to 4 came, expected 0 to 3"),
        (lambda c, y: (c, y.float()), "^labels of type"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_bad_codes_and_labels_are_refused(model, codes, bad, message):
    with pytest.raises(ValueError, match=message):
        model(*bad(codes, LABELS))


@pytest.mark.parametrize(
    ("labels", "how", "message"),
    [
        ([[1]], {}, r"^labels of shape \(1, 1\)"),
        ([1.0], {}, "^labels of type"),
        ([True], {}, "^labels of type"),
        ([-1], {}, "^labels from -1 to -1"),
        ([3], {}, "^labels from 3 to 3 came, expected 0 to 2"),
        ([1], {"temperature": 0.0}, "^temperature=0.0"),
        ([1], {"temperature": float("nan")}, "^temperature=nan"),
        ([1], {"temperature": float("inf")}, "^temperature=inf"),
        ([1], {"guidance": float("nan")}, "^guidance=nan"),
        ([1], {"guidance": float("inf")}, "^guidance=inf"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_bad_orders_are_refused(model, labels, how, message):
    with pytest.raises(ValueError, match=message):
        generate(model, torch.tensor(labels), **how)


@pytest.mark.usefixtures("unchecked")
def test_a_step_refuses_too_many_codes_and_a_cache_that_is_full(model, codes):
    with pytest.raises(ValueError, match=r"^codes: .* came, expected"):
        model.step(torch.cat([codes, codes], 1), LABELS, Cache())
    cache, new = Cache(), codes[:, :0]
    for group in model.schedule.groups:
        model.step(new, LABELS, cache)
        new = codes[:, list(group)]
    with pytest.raises(ValueError, match="came, expected"):
        model.step(new, LABELS, cache)


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        (((0,), ()), "^groups: number 1 is empty"),
        (((0,), (0,)), "^groups of 2 positions"),
        (((0,), (2,)), "^groups of 2 positions"),
        (((1, 2),), "^groups of 2 positions"),
        (((-1, 0),), "^groups of 2 positions"),
    ],
)
def test_groups_that_do_not_partition_are_refused(groups, message):
    with pytest.raises(ValueError, match=message):
        Schedule(groups)


def test_a_schedule_knows_its_order():
    schedule = Schedule(((2,), (0, 1)))
    assert (len(schedule), schedule.n, schedule.order) == (2, 3, [2, 0, 1])
