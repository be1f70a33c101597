"""Solutions to the exercises of notebooks/06_reduce/03_fastv.ipynb."""

from minitok.reduce import Reduction


def my_fastv(x, k, *, paid, payers="last"):
    """Exercise 1: the recipe."""
    b, n, _ = x.shape
    if not 1 <= k <= n:
        raise ValueError(f"k={k} came, expected a whole number from 1 to the {n} tokens of x")
    score = (paid[:, :, -1:] if payers == "last" else paid).float().mean((1, 2))
    order = score.argsort(dim=-1, descending=True, stable=True)[:, :k]
    return Reduction.keep(order.sort(-1).values, n)


def votes(paid, asked):
    """Exercise 2: the mean over heads, then over those of the last payers that are words."""
    rows = paid[:, :, -asked.shape[1] :].mean(1)
    return (rows * asked[..., None]).sum(1) / asked.sum(1, keepdim=True)
