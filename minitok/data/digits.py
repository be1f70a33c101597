"""Handwritten digits of 8x8 pixels that come inside scikit-learn. Nothing is downloaded.

What: 1,797 gray digits in 17 levels, 10 classes; the test set of the optical recognition data of 43 writers.
Splits: 1,400 train and 397 test, by a fixed permutation of the file's order.
Licence: CC BY 4.0 (data), BSD-3 (scikit-learn). Attribution: E. Alpaydin and C. Kaynak, 1998, UCI repository.
URL: https://archive.ics.uci.edu/dataset/80/optical+recognition+of+handwritten+digits
"""

import numpy as np
import torch

from minitok.data import Labelled, check_split, packaged

TRAIN = 1400


def load(split: str) -> Labelled:
    """The digits of `split` ("train": 1,400x1x8x8, "test": 397x1x8x8) in sixteenths from 0 to 1."""
    check_split(split)
    rows = np.loadtxt(packaged("sklearn", "datasets", "data", "digits.csv.gz"), delimiter=",", dtype=np.int64)
    # RandomState's streams are frozen: the split is the same over all versions of NumPy
    order = np.random.RandomState(0).permutation(len(rows))
    rows = torch.from_numpy(rows[order[:TRAIN] if split == "train" else order[TRAIN:]])
    images = rows[:, :-1].reshape(-1, 1, 8, 8).float() / 16
    return Labelled(images, rows[:, -1].clone(), tuple("0123456789"))
