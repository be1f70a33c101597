"""Token Recycling: the tokens that a model also thought of, kept as drafts for the next time.

Luo, Wang, Zhu, Zhang, Zhang, Yang, Xu: Turning Trash into Treasure: Accelerating Inference of Large Language Models
with Token Recycling, 2024, arXiv 2408.08696.

Mechanism: a matrix M (v, k) holds for each token t the k likeliest next tokens that the model gave when it last read t.
The draft is a tree of fixed shape below the last token: the node of rank r below a node with token t gets `M[t, r]`,
level by level. One call judges all nodes (a mask shows each the context and its ancestors), the path that the model
itself would have written is kept, and one token more. Then for every node, kept or not, `M[token] = top k of its
logits`; of equal tokens the last one in the row counts. M stays as it is from one text to the next.
Differs from the paper: M starts with "nothing known" (-1) instead of token 0, and nodes without a token are left out;
the last trees are cut to the tokens that are still wanted; text may also be drawn at a temperature (the authors' code
is greedy); `recycle` may read the prompt into M before the first call, which the authors' code does not do.
Notebook: notebooks/05_speculate/02_token_recycling.ipynb
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from minitok.checks import check_logits
from minitok.speculate._checks import check_context
from minitok.speculate._tree import Tree

# The paper's tree of 80 nodes: how many children the root has, then each node, level by level.
CHILDREN = (8,)
CHILDREN += (8, 4, 3, 2, 1, 1, 1, 1)
CHILDREN += (8, 3, 2, 1, 1, 1, 1, 1, 2, 1, 0, 0, 1, 0, 0, 1, 0, 1, 1, 0, 0)
CHILDREN += (5, 2, 1, 1, 1, 0, 0, 0, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 1, 0, 0, 1, 1, 0, 0)
CHILDREN += (3, 1, 1, 0, 0, 1, 0, 0, 0, 0, 1, 0, 1, 0, 0)
CHILDREN += (2, 0, 0, 1)


class Template(NamedTuple):
    """The shape of a tree: of each node the place of its parent (0 is the root), its rank below it, and its depth."""

    parents: Int[Tensor, "n"]
    ranks: Int[Tensor, "n"]
    depths: Int[Tensor, "n"]


def template(children: Sequence[int] = CHILDREN) -> Template:
    """The shape that a list of numbers of children tells, the root's first, then level by level; missing ones are 0.

    >>> template((2, 1)).parents.tolist(), template((2, 1)).ranks.tolist(), template((2, 1)).depths.tolist()
    ([0, 0, 1], [0, 1, 0], [1, 1, 2])

    Raises `ValueError` for a negative number, or one of a node that does not exist.
    """
    parents, ranks, depths = [], [], [0]
    for place, count in enumerate(children):
        if count < 0 or place > len(parents):
            raise ValueError(f"children[{place}]={count} came, for a tree of {len(parents)} nodes so far")
        parents += [place] * count
        ranks += range(count)
        depths += [depths[place] + 1] * count
    return Template(torch.tensor(parents).long(), torch.tensor(ranks).long(), torch.tensor(depths[1:]).long())


def fill(matrix: Int[Tensor, "v k"], root: int, shape: Template, depth: int | None = None) -> Tree:
    """The tree below a token: each node's token is the entry of its rank in its parent's row of the matrix.

    >>> fill(torch.tensor([[1, 2], [2, 0], [-1, -1]]), root=0, shape=template((2, 2, 1)))
    Tree(tokens=tensor([1, 2, 2, 0]), parents=tensor([0, 0, 1, 1]))

    Nodes below `depth` levels are left out, and those for which the matrix holds -1. As the authors' code.
    """
    shape = Template(*(part.to(matrix.device) for part in shape))
    row = torch.full((len(shape.parents) + 1,), -1, dtype=torch.long, device=matrix.device)
    row[0] = root
    deepest = int(shape.depths.max()) if len(shape.depths) else 0
    for level in range(1, 1 + (deepest if depth is None else min(depth, deepest))):
        nodes = (shape.depths == level).nonzero().flatten()
        above = row[shape.parents[nodes]]
        row[nodes + 1] = torch.where(above >= 0, matrix[above, shape.ranks[nodes]], -1)
    there = row >= 0
    place = there.cumsum(0) - 1
    return Tree(row[1:][there[1:]], place[shape.parents[there[1:]]])


def recycle(matrix: Int[Tensor, "v k"], tokens: Int[Tensor, "n"], logits: Float[Tensor, "n v"]) -> None:
    """Writes for each token the k likeliest next ones into its row, in place; of equal tokens the last one counts.

    >>> matrix = torch.zeros(3, 2, dtype=torch.long)
    >>> recycle(matrix, torch.tensor([1, 1]), torch.tensor([[3.0, 2.0, 1.0], [1.0, 2.0, 3.0]]))
    >>> matrix.tolist()
    [[0, 0], [2, 1], [0, 0]]

    Raises `ValueError` when logits do not fit the tokens or the matrix, or hold NaN or infinity, or a token has no row.
    As the authors' code.
    """
    v, k = matrix.shape
    if logits.shape != (len(tokens), v):
        raise ValueError(f"logits of shape {tuple(logits.shape)} came, expected {(len(tokens), v)}: one row a token")
    if len(tokens) and not 0 <= int(tokens.min()) <= int(tokens.max()) < v:
        raise ValueError(f"tokens from {int(tokens.min())} to {int(tokens.max())} came, expected 0 to {v - 1}")
    check_logits("logits", logits)
    last = list({token: place for place, token in enumerate(tokens.tolist())}.values())
    matrix[tokens[last]] = logits[last].topk(k).indices


class TokenRecycling:
    """A drafter for `decode_tree` that keeps the matrix from call to call and from text to text.

    The matrix follows the tokens and logits that come to their device.
    """

    def __init__(self, v: int, k: int = 8, children: Sequence[int] = CHILDREN) -> None:
        """For v tokens; `children` is the tree's shape (`template`), of which no node may have more than k children."""
        if not 1 <= k <= v:
            raise ValueError(f"k={k} came, expected 1 to the v={v} tokens")
        if max(children, default=0) > k:
            raise ValueError(f"children has a node of {max(children)} children, but the matrix keeps k={k} tokens")
        self.shape = template(children)
        self.matrix = torch.full((v, k), -1)

    def draft(self, context: Int[Tensor, "c"], depth: int) -> Tree:
        """The tree below the last token of the context, of at most `depth` levels."""
        check_context(context)
        if not len(context):
            raise ValueError("context is empty, expected at least the token below which the tree hangs")
        root = int(context[-1])
        if not 0 <= root < len(self.matrix):
            raise ValueError(f"context ends with token {root}, expected 0 to {len(self.matrix) - 1}")
        self.matrix = self.matrix.to(context.device)
        return fill(self.matrix, root, self.shape, depth)

    def learn(self, row: Int[Tensor, "n"], logits: Float[Tensor, "n v"], path: Tensor | None = None) -> None:
        """Recycles every place of the row, walked (`path`) or not."""
        self.matrix = self.matrix.to(logits.device)
        recycle(self.matrix, row, logits)
