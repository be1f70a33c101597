"""Solutions to the exercises of notebooks/06_reduce/25_adatoken_3d.ipynb."""

from minitok.reduce import Reduction


def my_adatoken(x, k, *, paid, asked):
    """Exercise 1: the recipe, for a given k."""
    b, n, _ = x.shape
    if not 1 <= k <= n:
        raise ValueError(f"k={k} came, expected a whole number from 1 to the {n} tokens of x")
    rows = paid[:, :, paid.shape[2] - asked.shape[1] :].float().mean(1)
    score = (rows * asked[..., None]).sum(1) / asked.sum(1, keepdim=True).clamp(min=1)
    return Reduction.keep(score.argsort(dim=-1, descending=True, stable=True)[:, :k].sort(-1).values, n)


def choose(counted, spent, most):
    """Exercise 2: the largest share first."""
    for share in range(95, 0, -5):
        costs = {layer: spent(layer, counted(layer, share / 100)) for layer in range(6)}
        layer = min(costs, key=costs.__getitem__)
        if costs[layer] <= most:
            return layer, share / 100
    raise ValueError(f"most={most} came, expected a part that some layer and share can keep to")
