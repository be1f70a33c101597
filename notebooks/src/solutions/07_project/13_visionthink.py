"""Solutions to the exercises of notebooks/07_project/13_visionthink.ipynb."""

import torch
import torch.nn.functional as F

from minitok.optimizers import AdamW
from minitok.project.visionthink import Policy


def my_rewards(correct, asks, formed=None, *, penalty=0.1, least=0.2):
    """Exercise 1: row by row."""
    formed = torch.ones_like(correct) if formed is None else formed
    worth = correct + 0.5 * formed
    for row in range(len(correct)):
        right = int(correct[row].sum())
        direct = int((correct[row] & ~asks[row]).sum())
        fined = ~asks[row] if direct < least * right else asks[row]
        worth[row] -= penalty * (correct[row] & fined)
    return worth


def supervised(taught):
    """Exercise 2: cross-entropy on the label."""
    needed = (taught.hits[:, 1] & ~taught.hits[:, 0]).float()
    policy = Policy(taught.hidden.shape[1])
    optimizer = AdamW(policy.parameters(), lr=1e-3, weight_decay=0.01)
    for _ in range(400):
        some = torch.randint(len(taught), (128,))
        loss = F.binary_cross_entropy_with_logits(policy(taught.hidden[some]), needed[some])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return policy.requires_grad_(False)
