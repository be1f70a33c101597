"""Solutions to the exercises of notebooks/06_reduce/11_divprune.ipynb; running this file checks them."""

import torch

from minitok.reduce.divprune import distances, most_apart


def walk_from(distance, looked, k):
    """Exercise 1: the same walk, from the token of most attention."""
    rows, pick = torch.arange(len(distance)), looked.argmax(-1)
    reach, picks = torch.full_like(distance[:, 0], torch.inf), [pick]
    for _ in range(k - 1):
        reach = torch.minimum(reach, distance[rows, pick])
        reach[rows, pick] = -torch.inf
        pick = reach.argmax(-1)
        picks.append(pick)
    return torch.stack(picks, 1)


def max_sum(distance, k):
    """Exercise 2: the reach is a sum, which grows by a row of distances in each step."""
    rows, pick = torch.arange(len(distance)), most_apart(distance, k)
    total, picks = torch.zeros_like(distance[:, 0]), [pick]
    for _ in range(k - 1):
        total = total + distance[rows, pick]
        total[rows, pick] = -torch.inf
        pick = total.argmax(-1)
        picks.append(pick)
    return torch.stack(picks, 1)


# Exercise 3: two steps of 45 degrees cost 0.29 each, one of 90 degrees costs 1.
triangle = torch.tensor([[1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])


if __name__ == "__main__":
    at = torch.tensor([0.0, 1.0, 5.0, 9.0])
    line = (at[:, None] - at).abs()[None]
    assert walk_from(line, torch.tensor([[0.1, 0.7, 0.1, 0.1]]), 4).tolist() == [[1, 3, 2, 0]]
    assert walk_from(line.expand(2, -1, -1), torch.eye(4)[[0, 3]], 2).tolist() == [[0, 3], [3, 0]]
    at = torch.tensor([0.0, 1.0, 4.0, 6.0, 10.0, 11.0])
    assert max_sum((at[:, None] - at).abs()[None], 4).tolist() == [[2, 5, 0, 4]]
    d = distances(triangle[None])[0]
    assert d[0, 1] + d[1, 2] < d[0, 2] - 0.1
    chord = (2 * d).sqrt()
    assert chord[0, 1] + chord[1, 2] >= chord[0, 2]
