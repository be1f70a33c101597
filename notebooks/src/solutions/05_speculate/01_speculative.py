"""Solutions to the exercises of notebooks/05_speculate/01_speculative.ipynb; running this file checks them."""

import torch

from minitok import house
from minitok.house.sampling import sample
from minitok.speculate import Cached, decode
from minitok.speculate.speculative import accept, improvement, induced, overlap, residual

# In the notebook the codes are already there: `codes["image_draft"]`.
DRAWN = sample(house.load("image_draft"), torch.arange(10), seed=0)


def best_k(alpha, c):
    """Exercise 1: `max` returns the first of equal ones."""
    return max(range(21), key=lambda k: improvement(alpha, k, c))


def lenient(p, q, x, l=0.5):
    """Exercise 2: as strict as if q were l times as large."""
    return min(1.0, float(p[x] / (l * q[x])))


def table_draft(context, k, generator):
    """Exercise 3: every guess is drawn from the same row, whatever came before."""
    counts = DRAWN.flatten().bincount(minlength=4096) + 0.5
    q = (counts / counts.sum()).double()
    return torch.multinomial(q, k, replacement=True, generator=generator), q.expand(k, -1)


if __name__ == "__main__":
    assert (best_k(0.1, 0.5), best_k(0.8, 0.05), best_k(0.55, 0.158)) == (0, 8, 2)

    p, q = (2 * torch.randn(2, 50, generator=torch.Generator().manual_seed(0), dtype=torch.float64)).softmax(-1)
    law = induced(p, q, lenient, residual)
    assert (law <= 2 * p + 1e-12).all()
    assert sum(float(q[x]) * lenient(p, q, x) for x in range(50)) > overlap(p, q) + 0.05
    torch.testing.assert_close(induced(p, q, lambda p, q, x: lenient(p, q, x, 1), residual), p, atol=1e-12, rtol=0)

    tokens, rows = table_draft(None, 20_000, torch.Generator().manual_seed(0))
    often = rows[0] > 0.002
    share = tokens.bincount(minlength=4096)[often] / 20_000
    assert ((share - rows[0, often]).abs() < 5 * (rows[0, often] / 20_000).sqrt()).all()
    gpt, label = house.load("image_gpt"), torch.tensor([9])
    target = Cached(lambda new, cache: gpt(new, label, cache))
    decoded = decode(target, table_draft, accept, DRAWN[0, :0], 64, k=2, generator=torch.Generator().manual_seed(0))
    assert sum(decoded.kept) > 4
