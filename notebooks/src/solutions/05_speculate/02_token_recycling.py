"""Solutions to the exercises of notebooks/05_speculate/02_token_recycling.ipynb."""

import heapq

import torch

from minitok.speculate import Tree
from minitok.speculate.token_recycling import CHILDREN, template


class MyRecycling:
    """Exercise 1: the tree node by node, the matrix row by row."""

    def __init__(self, v, k=8, children=CHILDREN):
        self.shape, self.matrix = template(children), torch.full((v, k), -1)

    def draft(self, context, depth):
        """A node is there if its parent is, and the parent's row holds a token of its rank."""
        row, parents, place = [int(context[-1])], [], {0: 0}
        for node, (parent, rank, level) in enumerate(zip(*map(torch.Tensor.tolist, self.shape), strict=True), 1):
            if parent in place and level <= depth:
                token = int(self.matrix[row[place[parent]], rank])
                if token >= 0:
                    place[node] = len(row)
                    parents.append(place[parent])
                    row.append(token)
        return Tree(torch.tensor(row[1:]).long(), torch.tensor(parents).long())

    def learn(self, row, logits, path=None):
        """The last of equal tokens counts, as it is written last."""
        for token, likeliest in zip(row.tolist(), logits.topk(self.matrix.shape[1]).indices, strict=True):
            self.matrix[token] = likeliest


def best_nodes(p, n):
    """Exercise 2: a node is worth at most what its parent is, so take the best child of any node taken, n times."""
    waiting, taken = [(-chance, (r,)) for r, chance in enumerate(p)], []
    heapq.heapify(waiting)
    while waiting and len(taken) < n:
        worth, node = heapq.heappop(waiting)
        taken.append(node)
        for r, chance in enumerate(p):
            heapq.heappush(waiting, (worth * chance, (*node, r)))
    return taken
