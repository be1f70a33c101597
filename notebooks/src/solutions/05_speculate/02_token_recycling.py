"""Solutions to the exercises of notebooks/05_speculate/02_token_recycling.ipynb; running this file checks them."""

import heapq
import math

import torch

from minitok.speculate import Tree


def best_nodes(p, n):
    """Exercise 1: a node is worth at most what its parent is, so take the best child of any node taken, n times."""
    waiting, taken = [(-chance, (r,)) for r, chance in enumerate(p)], []
    heapq.heapify(waiting)
    while waiting and len(taken) < n:
        worth, node = heapq.heappop(waiting)
        taken.append(node)
        for r, chance in enumerate(p):
            heapq.heappush(waiting, (worth * chance, (*node, r)))
    return taken


def never_written(calls):
    """Exercise 2: the tokens of all rows, less those whose place was once on the path."""
    updated, written = set(), set()
    for context, tree, path in calls:
        row = torch.cat([context[-1:], tree.tokens])
        updated |= set(row.tolist())
        written |= set(row[path].tolist())
    return len(updated - written) / len(updated)


def draw(p, children):
    """Exercise 3: the token comes from p alone; the draft only decides whether the call goes on with it."""
    token = int(torch.multinomial(p, 1))
    return token, token in children


if __name__ == "__main__":
    nodes = best_nodes([0.5, 0.3], 4)
    assert len(set(nodes)) == 4
    assert abs(sum(math.prod([0.5, 0.3][r] for r in node) for node in nodes) - 1.2) < 1e-6
    tree = Tree(torch.tensor([5, 6, 7]), torch.tensor([0, 0, 2]))
    toy = [(torch.tensor([1, 2]), tree, torch.tensor([0, 2])), (torch.tensor([6, 5]), tree, torch.tensor([0]))]
    assert never_written(toy) == 1 / 4
    torch.manual_seed(0)
    p = torch.tensor([0.1, 0.2, 0.3, 0.4])
    drawn = [draw(p, [3, 0]) for _ in range(4000)]
    share = torch.tensor([token for token, _ in drawn]).bincount(minlength=4) / 4000
    assert (share - p).abs().max() < 0.04
    assert all(kept == (token in (3, 0)) for token, kept in drawn)
