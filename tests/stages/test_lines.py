import pytest
import torch

from minitok import house
from minitok.data import photographs
from minitok.reduce import Reduction
from minitok.stages.lines import lines


@pytest.fixture(scope="module")
def work():
    return lines(house.load("vit"), photographs.crops(6, 64))


def test_all_patches_can_be_read_and_none_cannot(work):
    everything = Reduction.keep(torch.arange(256).expand(6, -1), 256)
    elsewhere = (~work.inked).float().argsort(dim=-1, descending=True, stable=True)[:, :64]
    assert work.read(everything) >= 90
    assert work.read(Reduction.keep(elsewhere, 256)) < 40


def test_the_line_lies_where_it_is_said_to_lie(work):
    for ink, top in zip(work.ink, work.top, strict=True):
        rows = ink[0].sum(1).nonzero().flatten()
        assert top <= int(rows.min()) <= int(rows.max()) < top + 16
    assert work.inked.view(6, 16, 16).any(2).sum(1).max() <= 5
    blank = (work.ink == 0).expand_as(work.pictures)
    assert torch.equal(work.pictures[blank], photographs.crops(6, 64)[blank])
    assert work.pictures[(work.ink > 0.99).expand_as(work.pictures)].min() > 0.98


def test_only_the_ink_of_kept_patches_counts(work):
    order = work.inked.float().argsort(dim=-1, descending=True, stable=True)[:, :80].sort(-1).values
    inked = Reduction.keep(order, 256)
    assert work.clear(inked).sum() == 6 * 80 * 16
    assert work.read(inked) > 80


def test_attention_is_that_of_each_layer_without_cls(work):
    assert [tuple(maps.shape) for maps in work.attention] == 8 * [(6, 3, 256, 256)]
    assert all((maps.sum(-1) < 1 + 1e-5).all() for maps in work.attention)


def test_the_seed_draws_digits_and_heights(work):
    again = lines(work.vit, photographs.crops(6, 64))
    other = lines(work.vit, photographs.crops(6, 64), seed=1)
    assert torch.equal(again.pictures, work.pictures)
    assert not torch.equal(other.digits, work.digits)
    assert other.top != work.top
