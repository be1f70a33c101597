"""Solutions to the exercises of notebooks/06_reduce/11_divprune.ipynb."""

import torch
import torch.nn.functional as F

from minitok.reduce import Reduction


def my_divprune(x, k):
    """Exercise 1: the walk, for a batch, from cosine distances in float32."""
    b, n, _ = x.shape
    if not 1 <= k <= n:
        raise ValueError(f"k={k} came, expected a whole number from 1 to the {n} tokens of x")
    unit = F.normalize(x.float(), dim=-1)
    distance = 1 - unit @ unit.mT
    rows = torch.arange(b, device=x.device)
    own = torch.eye(n, dtype=torch.bool, device=x.device)
    pick = distance.masked_fill(own, torch.inf).amin(1).argmax(1)
    reach, picks = torch.full((b, n), torch.inf, device=x.device), [pick]
    for _ in range(k - 1):
        reach = torch.minimum(reach, distance[rows, pick])
        reach[rows, pick] = -torch.inf
        pick = reach.argmax(1)
        picks.append(pick)
    return Reduction.keep(torch.stack(picks, 1).sort(1).values, n)


def walk_from(distance, looked, k):
    """Exercise 2: the same walk, from the token of most attention."""
    rows, pick = torch.arange(len(distance)), looked.argmax(-1)
    reach, picks = torch.full_like(distance[:, 0], torch.inf), [pick]
    for _ in range(k - 1):
        reach = torch.minimum(reach, distance[rows, pick])
        reach[rows, pick] = -torch.inf
        pick = reach.argmax(-1)
        picks.append(pick)
    return torch.stack(picks, 1)
