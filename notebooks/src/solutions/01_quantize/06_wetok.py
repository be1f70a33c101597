"""Solutions to the exercises of notebooks/01_quantize/06_wetok.ipynb; running this file checks them."""

import torch

from minitok.quantize.lfq import mean_code_probabilities


def fewest_groups(d, room):
    """Exercise 1: g groups hold g 2^(d / g) numbers; the first divisor of d that fits."""
    return next(g for g in range(1, d + 1) if d % g == 0 and g * 2 ** (d // g) <= room)


def shared(p, g):
    """Exercise 2: the groups of all vectors are stacked before the mean is taken."""
    return torch.special.entr(mean_code_probabilities(torch.cat(p.chunk(g, dim=1)))).sum()


def error_of_the_mean(one, two, x):
    """Exercise 3: the errors' product: independent noise averages out of it."""
    return ((one - x) * (two - x)).mean()


if __name__ == "__main__":
    cases = [(16, 65536, 1), (16, 512, 2), (32, 1024, 4), (24, 5000, 3), (24, 64, 8), (7, 100, 7)]
    assert [fewest_groups(d, room) for d, room, _ in cases] == [right for *_, right in cases]
    torch.manual_seed(0)
    p = torch.sigmoid(3 * torch.randn(40, 6))
    alone = [float(torch.special.entr(mean_code_probabilities(part)).sum()) for part in p.chunk(2, dim=1)]
    assert float(shared(p, 2)) > sum(alone) / 2
    assert abs(float(shared(p, 1)) - float(torch.special.entr(mean_code_probabilities(p)).sum())) < 1e-5
    stuck = torch.tensor([[1.0, 0.0]]).expand(40, 2)
    assert abs(float(shared(stuck, 2)) - torch.tensor(2.0).log()) < 1e-3
    mean, x, noise = torch.rand(500, 1, 8, 8), torch.rand(500, 1, 8, 8), torch.randn(2, 500, 1, 8, 8)
    one, two = mean + 0.5 * noise
    assert abs(error_of_the_mean(one, two, x) - (mean - x).square().mean()) < 0.02
