"""Solutions to the exercises of notebooks/05_speculate/04_lantern.ipynb; running this file checks them."""

import torch

from minitok.speculate.lantern import borrowed, nearest


def greedy(p, x, near, delta):
    """Exercise 1: only the guess is changed, so it is the argmax if it reaches the highest of all."""
    now = p.clone()
    now[x] += borrowed(p, torch.tensor([x]), near, delta)[0]
    return int(now.argmax()) == x


def in_proportion(p, near, delta):
    """Exercise 2: the sums that are allowed differ from code to code."""
    sums = p[near].cumsum(-1)
    return torch.where(sums <= (delta - 1) * p[:, None], sums, 0).amax(-1)


if __name__ == "__main__":
    near = nearest(torch.tensor([[0.0], [1.0], [3.0], [7.0]]), 3)
    p = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)
    assert [greedy(p, x, near, 0.0) for x in range(4)] == [False, False, False, True]
    assert [greedy(p, x, near, 0.25) for x in range(4)] == [False, False, True, True]

    # Twice its own: code 0 may borrow 0.2, the 0.2 of code 1; code 1 may borrow 0.4, the 0.1 and 0.3 of 0 and 2;
    # code 2 may borrow 0.6 but its next neighbour has 0.4: it stops at 0.3.
    loans = in_proportion(p, near, 3.0 + 1e-9)
    torch.testing.assert_close(loans, torch.tensor([0.2, 0.4, 0.3, 0.6]).double(), atol=1e-6, rtol=0)
    assert (in_proportion(p, near, 1.0) == 0).all()
