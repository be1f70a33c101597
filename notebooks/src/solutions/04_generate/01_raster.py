"""Solutions to the exercises of notebooks/04_generate/01_raster.ipynb; running this file checks them."""

import torch
import torch.nn.functional as F

from minitok.generate.raster import ImageGPT
from minitok.nn import Cache, Shape


def nucleus(logits, p):
    """Exercise 1: a code goes if those likelier than it reach p without it."""
    ordered, order = logits.softmax(-1).sort(descending=True)
    before = ordered.cumsum(-1) - ordered
    out = torch.zeros_like(logits, dtype=torch.bool).scatter(-1, order, before >= p)
    return logits.masked_fill(out, -torch.inf)


def which(network, codes):
    """Exercise 2: the class under which all codes together are likeliest."""
    scores = []
    for label in range(network.classes):
        logits = network(codes, torch.full((len(codes),), label))
        scores.append(-F.cross_entropy(logits.transpose(1, 2), codes, reduction="none").sum(1))
    return torch.stack(scores).argmax(0)


def finish(network, given, labels, seed=0):
    """Exercise 3: the first call reads the class and all given codes, each later one the code just drawn."""
    generator, cache, codes, new = torch.Generator().manual_seed(seed), Cache(), given, given
    while codes.shape[1] < network.schedule.n:
        p = network(new, labels, cache)[:, -1].softmax(-1)
        new = torch.multinomial(p, 1, generator=generator)
        codes = torch.cat([codes, new], dim=1)
    return codes


if __name__ == "__main__":
    logits = torch.tensor([[0.05, 0.5, 0.15, 0.3]]).log()
    for p, expected in ((0.4, [1]), (0.7, [1, 3]), (0.81, [1, 2, 3]), (1.0, [0, 1, 2, 3])):
        assert nucleus(logits, p)[0].isfinite().nonzero().flatten().tolist() == expected

    class Three:
        classes = 3

        def __call__(self, codes, labels):
            return 5 * F.one_hot(labels, 3)[:, None].expand(-1, codes.shape[1], -1).float()

    assert which(Three(), torch.tensor([[2, 2, 0, 2], [1, 0, 1, 1]])).tolist() == [2, 1]

    small = ImageGPT(Shape(width=16, layers=2, heads=2), K=50, n=25, classes=3).eval().requires_grad_(False)
    calls = []
    small.body.register_forward_hook(lambda *_: calls.append(1))
    given = torch.arange(10)[None].repeat(2, 1)
    whole = finish(small, given, torch.tensor([0, 2]))
    assert whole.shape == (2, 25)
    assert torch.equal(whole[:, :10], given)
    assert len(calls) == 15
