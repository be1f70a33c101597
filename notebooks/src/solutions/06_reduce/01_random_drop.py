"""Solutions to the exercises of notebooks/06_reduce/01_random_drop.ipynb; running this file checks them."""

import torch

from minitok import house
from minitok.reduce import Reduction, cost

vit = house.load("vit")


def regular(x, k):
    """Exercise 1: every second row and column, the same for each row of the batch."""
    kept = torch.arange(256).view(16, 16)[::2, ::2].flatten()
    return Reduction.keep(kept.expand(len(x), -1), x.shape[1])


def squares(x, k):
    """Exercise 2: half the row and half the column of a patch are those of its square."""
    half = torch.arange(16) // 2
    number = (8 * half[:, None] + half).flatten()
    return Reduction.merge(number.expand(len(x), -1), k)


def affordable(share):
    """Exercise 3: the cost grows with k, so the largest k that fits is found from above."""
    limit = share * cost(vit.body, {}, 256)
    return next(k for k in range(256, 0, -1) if cost(vit.body, {3: k}, 256) <= limit)


if __name__ == "__main__":
    kept = regular(torch.randn(2, 256, 4), 64).order
    assert kept.shape == (2, 64)
    assert (kept[0].view(8, 8).diff() == 2).all()
    assert (kept[0].view(8, 8).diff(dim=0) == 32).all()
    merged = squares(torch.zeros(2, 256, 1), 64)
    assert (merged.sizes(torch.ones(2, 256)) == 4).all()
    rows, columns = torch.meshgrid(torch.arange(16.0), torch.arange(16.0), indexing="ij")
    places = merged.apply(torch.stack([rows, columns], -1).view(1, 256, 2).expand(2, -1, -1))
    assert places[0, 9].tolist() == [2.5, 2.5]
    for share in (0.9, 0.7, 0.55):
        k = affordable(share)
        assert cost(vit.body, {3: k}, 256) <= share * cost(vit.body, {}, 256) < cost(vit.body, {3: k + 1}, 256)
