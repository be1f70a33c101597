"""The digits of scikit-learn, against its own loader."""

import pytest
import torch
from torch.testing import assert_close

from minitok.data import digits


def test_the_splits_together_are_the_digits_of_scikit_learn():
    from sklearn.datasets import load_digits

    train, test = digits.load("train"), digits.load("test")
    assert train.images.shape == (1400, 1, 8, 8)
    assert test.images.shape == (397, 1, 8, 8)
    pixels, target = load_digits(return_X_y=True)
    expected = sorted((*row, label) for row, label in zip(pixels.tolist(), target.tolist(), strict=True))
    ours = torch.cat([train.images, test.images]).flatten(1) * 16
    labels = torch.cat([train.labels, test.labels])
    found = sorted((*row, label) for row, label in zip(ours.tolist(), labels.tolist(), strict=True))
    assert_close(torch.tensor(found), torch.tensor(expected).float(), atol=0, rtol=0)
    assert train.classes == tuple("0123456789")


def test_the_split_never_changes():
    assert digits.load("train").labels[:8].tolist() == [2, 8, 2, 6, 6, 7, 1, 9]
    assert digits.load("test").labels[:8].tolist() == [0, 4, 2, 7, 7, 9, 1, 9]
    counts = digits.load("test").labels.bincount()
    assert counts.min() >= 25


def test_an_unknown_split_is_refused():
    with pytest.raises(ValueError, match="split='all' is not one of train, test"):
        digits.load("all")
