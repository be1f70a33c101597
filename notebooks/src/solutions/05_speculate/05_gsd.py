"""Solutions to the exercises of notebooks/05_speculate/05_gsd.ipynb; running this file checks them."""

import torch

from minitok import house
from minitok.speculate.gsd import acceptances, group

# In the notebook these are already there.
every = torch.arange(4096)
vectors = house.load("tokenizer").quantizer.decode(every[None, :, None])[0]


def by_draft(p, q):
    """Exercise 1: the members come from q, the sums are the same."""
    members, inside = group(q, every, vectors, window=30)
    return ((p[members] * inside).sum(-1) / (q[members] * inside).sum(-1)).clamp(max=1)


def kinder(p, q):
    """Exercise 2: no guess is judged more strictly than by the exact rule."""
    return torch.maximum(acceptances(p, q, every, vectors, window=30), (p / q).clamp(max=1))


if __name__ == "__main__":
    p, q = (2 * torch.randn(2, 4096, generator=torch.Generator().manual_seed(0), dtype=torch.float64)).softmax(-1)
    exact = (p / q).clamp(max=1)
    mirrored = by_draft(p, q)
    assert not torch.equal(mirrored, acceptances(p, q, every, vectors, window=30))
    lowest = q.argsort()[:30]
    torch.testing.assert_close(mirrored[lowest], exact[lowest])

    a = kinder(p, q)
    assert (a >= exact).all()
    kept = q * a
    rest = (p - q).clamp(min=0)
    law = kept + (1 - kept.sum()) * rest / rest.sum()
    gain = float((kept - q * exact).sum())
    assert gain > 0.01
    assert abs(float((law - p).abs().sum()) / 2 - gain) < 1e-9
