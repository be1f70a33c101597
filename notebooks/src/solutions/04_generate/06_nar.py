"""Solutions to the exercises of notebooks/04_generate/06_nar.ipynb; running this file checks them."""

import math

import torch

from minitok.generate.nar import diagonals


def waves(shape):
    """Exercise 1: one group for each sum of coordinates, from 0 to that of the last cell."""
    sums = torch.cartesian_prod(*(torch.arange(size) for size in shape)).view(-1, len(shape)).sum(1)
    return [torch.nonzero(sums == c).flatten().tolist() for c in range(int(sums.max()) + 1)]


def vote(a, b):
    """Exercise 2: the mean of probabilities, in logarithms."""
    return torch.logaddexp(a.log_softmax(-1), b.log_softmax(-1)) - math.log(2)


def alone(ranks):
    """Exercise 3: smaller distances, and itself."""
    return (ranks[:, None] > ranks) | torch.eye(len(ranks), dtype=torch.bool)


if __name__ == "__main__":
    assert waves((2, 3)) == [[0], [1, 3], [2, 4], [5]]
    assert waves((2, 2, 2)) == [[0], [1, 2, 4], [3, 5, 6], [7]]
    assert waves((4, 4)) == [sorted(group) for group in diagonals(4).groups]
    assert len(waves((8, 16, 16))) == 8 + 16 + 16 - 2
    a, b = torch.tensor([0.9, 0.1]).log(), torch.tensor([0.3, 0.7]).log()
    assert torch.allclose(vote(a, b + 3).exp(), torch.tensor([0.6, 0.4]), atol=1e-5)
    ranks = torch.tensor([-2, 0, 1, 1, 2])
    assert alone(ranks).sum(1).tolist() == [1, 2, 3, 3, 5]
