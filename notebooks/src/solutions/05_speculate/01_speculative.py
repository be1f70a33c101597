"""Solutions to the exercises of notebooks/05_speculate/01_speculative.ipynb."""

from minitok.speculate import happens, pick
from minitok.speculate.speculative import improvement


def my_accept(p, q, drafted, generator=None):
    """Exercise 1: the recipe's steps 4 to 6."""
    if p.dim() != 2 or len(p) != len(drafted) + 1 or q.shape != (len(drafted), p.shape[1]):
        raise ValueError(f"p {tuple(p.shape)}, q {tuple(q.shape)} and {len(drafted)} drafted tokens do not fit")
    for i, x in enumerate(drafted.tolist()):
        if not happens(min(1.0, float(p[i, x] / q[i, x])), generator):
            rest = (p[i] - q[i]).clamp(min=0)
            return i, pick(rest / rest.sum(), generator)
    return len(drafted), pick(p[-1], generator)


def best_k(alpha, c):
    """Exercise 2: `max` returns the first of equal ones."""
    return max(range(21), key=lambda k: improvement(alpha, k, c))
