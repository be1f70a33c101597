"""Neighbouring autoregression (NAR): all codes of an anti-diagonal at once, by a head for each neighbour.

He, He, He, Chen, Zhou, Zhang, Zhuang: Neighboring Autoregressive Modeling for Efficient Visual Generation, 2025,
arXiv 2503.10696.

Mechanism: cell (i, j) of an n x n grid lies at distance c = i + j from the first; the cells of one distance form a
group, so a picture takes 2n - 1 steps instead of n^2. A token sees all whose distance is not larger than its own
(block-causal attention). It predicts two neighbours, `right(i, j)` the cell (i, j + 1) from the trunk and
`below(i, j)` the cell (i + 1, j) from one more layer, each behind a norm of its own. A cell's logits are the mean of
those of its neighbours, `(right(i, j - 1) + below(i - 1, j)) / 2`; row 0 has only the left neighbour, column 0 only
the upper one, cell (0, 0) both heads of the class token. Loss: cross-entropy of these logits.
Differs from the paper: one matrix, that of the codes' own vectors, reads out both heads (the release has two), so
the mean is taken before it; positions are also learnt vectors; the class token has a place, up and left of the grid
(the release turns its queries and keys to zero). The heads for time, of videos, are left out.
Notebook: notebooks/04_generate/06_nar.ipynb
"""

from functools import partial
from itertools import accumulate

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from minitok.attention import visible
from minitok.generate._common import Schedule, check_codes
from minitok.nn import Cache, Shape, Transformer


def diagonals(side: int) -> Schedule:
    """The cells of a square grid by their distance i + j from the first, rows downwards within one.

    >>> diagonals(3).groups
    ((0,), (1, 3), (2, 4, 6), (5, 7), (8,))

    Source: the order of the release (`setup_proximity_mask`). Raises `ValueError` for a side below 1.
    """
    if side < 1:
        raise ValueError(f"side={side} came, expected at least 1")
    cells = [[(i, c - i) for i in range(side) if 0 <= c - i < side] for c in range(2 * side - 1)]
    return Schedule(tuple(tuple(i * side + j for i, j in group) for group in cells))


def neighbours(side: int) -> tuple[Int[Tensor, "n"], Int[Tensor, "n"], Float[Tensor, "n"]]:
    """For each cell its left and its upper neighbour among the tokens, and how much the left one counts (1, 0, 1/2).

    >>> [column.tolist() for column in neighbours(2)]
    [[0, 1, 2, 3], [0, 0, 1, 2], [0.5, 1.0, 0.0, 0.5]]

    Token 0 is the class, token k + 1 is cell k; cell 0 has the class for both. A neighbour that counts 0 may be any.
    """
    cell = torch.arange(side * side)
    row, column = cell // side, cell % side
    weight = torch.where(row == 0, 1.0, torch.where(column == 0, 0.0, 0.5))
    weight[0] = 0.5
    return cell, (cell - side + 1).clamp(min=0), weight


def mean(
    right: Float[Tensor, "b n c"], below: Float[Tensor, "b n c"], weight: Float[Tensor, "n"]
) -> Float[Tensor, "b n c"]:
    """What both neighbours say of each cell: `weight` of the left one's right head, the rest of the upper one's below.

    >>> mean(torch.tensor([[[2.0], [4.0]]]), torch.tensor([[[6.0], [8.0]]]), torch.tensor([0.5, 0.0])).tolist()
    [[[4.0], [8.0]]]

    The paper takes the mean of logits. Reading out by one matrix is linear, so the mean may be taken before it.
    """
    weight = weight[:, None].to(right.dtype)
    return weight * right + (1 - weight) * below


class NAR(nn.Module):
    """Probabilities of a diagonal's codes given a class and the diagonals before. Label `classes` stands for "any"."""

    left: Tensor
    above: Tensor
    weight: Tensor
    places: Tensor
    distance: Tensor

    def __init__(self, shape: Shape, K: int = 4096, side: int = 16, classes: int = 10, below_layers: int = 1) -> None:
        super().__init__()
        if min(K, classes) < 1:
            raise ValueError(f"K={K} and classes={classes} came, expected at least 1 of each")
        if not 0 < below_layers < shape.layers:
            raise ValueError(f"below_layers={below_layers} came, expected 1 to {shape.layers - 1} of the layers")
        c, n = shape.width, side * side
        self.K, self.classes, self.schedule, self.below_layers = K, classes, diagonals(side), below_layers
        self.code = nn.Parameter(torch.randn(K, c) * 0.02)
        self.label = nn.Embedding(classes + 1, c)
        self.position = nn.Parameter(torch.randn(n, c) * 0.02)
        self.body, self.right_norm = Transformer(shape), shape.norm(c)
        # The last cell is no token: it has no neighbours to predict.
        cell = torch.arange(n - 1)
        places = torch.cat([torch.full((1, 2), -1), torch.stack([cell // side, cell % side], dim=1)])
        for name, value in zip(("left", "above", "weight"), neighbours(side), strict=True):
            self.register_buffer(name, value, persistent=False)
        sizes = [len(group) for group in self.schedule.groups]
        # The tokens that the cache holds before each call: none, the class, then one diagonal more each.
        self.starts = [0, *accumulate(sizes[:-2], initial=1)][: len(sizes)]
        self.register_buffer("places", places.float(), persistent=False)
        self.register_buffer("distance", places.sum(1), persistent=False)

    def forward(self, codes: Int[Tensor, "b n"], labels: Int[Tensor, "b"]) -> Float[Tensor, "b n K"]:
        """Logits of each of a picture's codes, given the class and the codes on the diagonals before its own.

        Raises `ValueError` for codes or labels of a wrong shape, type, range or number.
        """
        n = len(self.position)
        check_codes(codes, labels, self.K, self.classes, range(n, n + 1))
        code = self.code
        x = torch.cat([self.label(labels)[:, None], code[codes[:, :-1]]], dim=1)
        seen = visible(self.distance, n, n, codes.device)
        right, below = self.heads(x, torch.arange(n, device=codes.device), seen, None)
        return mean(right[:, self.left], below[:, self.above], self.weight) @ code.T

    def step(self, new: Int[Tensor, "b g"], labels: Int[Tensor, "b"], cache: Cache) -> Float[Tensor, "b m K"]:
        """Logits of the next diagonal, given the codes of the one just drawn (none at first: the class is read).

        Raises `ValueError` as `forward`, for codes that are not one diagonal, and after the last of them.
        """
        groups, past = self.schedule.groups, len(cache)
        if past not in self.starts:
            raise ValueError(f"cache of {past} tokens came, expected one of {self.starts}: the ends of diagonals")
        t = self.starts.index(past)
        fed = groups[t - 1] if t else ()
        check_codes(new, labels, self.K, self.classes, range(len(fed), len(fed) + 1))
        tokens = torch.tensor([k + 1 for k in fed] or [0], device=new.device)
        slot = torch.zeros_like(self.left).index_put((tokens,), torch.arange(len(tokens), device=new.device))
        cells = torch.tensor(groups[t], device=new.device)
        x = self.code[new] if t else self.label(labels)[:, None]
        right, below = self.heads(x, tokens, None, cache)
        left, above = slot[self.left[cells]], slot[self.above[cells]]
        return mean(right[:, left], below[:, above], self.weight[cells]) @ self.code.T

    def heads(
        self, x: Float[Tensor, "b n c"], tokens: Int[Tensor, "n"], seen: Tensor | None, cache: Cache | None
    ) -> tuple[Float[Tensor, "b n c"], Float[Tensor, "b n c"]]:
        """What each token says of its right neighbour (behind the trunk) and of the one below (behind all layers)."""
        x = F.dropout(x + self.position[tokens], 0.1, self.training)
        trunk = x
        for i, block in enumerate(self.body.blocks):
            past = partial(cache.extend, i) if cache is not None else None
            x = block(x, self.places[tokens][None], seen, None, past)
            if i == len(self.body.blocks) - 1 - self.below_layers:
                trunk = x
        return self.right_norm(trunk), self.body.norm(x)
