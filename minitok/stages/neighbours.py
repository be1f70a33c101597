"""Baselines for generators of codes, which count and are no networks: each code by itself, or by its neighbours."""

import torch
from jaxtyping import Float, Int
from torch import Tensor


class Unigram:
    """How often each of K codes occurs: drawn by that, each code by itself."""

    def __init__(self, codes: Int[Tensor, "b n"], K: int = 4096) -> None:
        self.counts = torch.bincount(codes.flatten(), minlength=K) + 1.0  # none is impossible

    def price(self, codes: Int[Tensor, "b n"]) -> Float[Tensor, "b n"]:
        """What each code costs, in bits."""
        return -(self.counts / self.counts.sum()).log2()[codes]

    def draw(self, b: int, seed: int = 0, n: int = 256) -> Int[Tensor, "b n"]:
        """The codes of b pictures."""
        generator = torch.Generator().manual_seed(seed)
        return torch.multinomial(self.counts, n * b, True, generator=generator).view(b, n)


class Neighbours:
    """How often each level of a code follows those above it, to its left, and before it in the same code.

    A code of `tokenizer` is a number of four digits from 0 to 7, its levels. Each is predicted from the same level of
    the cell above and of the left one, and from the levels of its own cell before it. Where a context is rare, shorter
    ones help: `(count + a p) / (n + a)`, with p the prediction from the shorter context, n how often the context was
    seen, and a the `strength`.
    """

    def __init__(self, codes: Int[Tensor, "b n"], side: int = 16, strength: float = 16.0) -> None:
        here = levels(codes.view(-1, side, side))
        self.side, self.strength, self.tables = side, strength, []
        for i in range(4):
            found = [
                torch.bincount((8 * key + here[..., i]).flatten(), minlength=8 * size)
                for key, size in contexts(i, *around(here))
            ]
            self.tables.append([table.view(-1, 8).float() for table in found])

    def level(self, i: int, up: Tensor, left: Tensor, cell: Tensor) -> Float[Tensor, "... 8"]:
        """Probabilities of level i, given the levels above, to the left, and those of the cell itself before i."""
        p = torch.full((*up.shape[:-1], 8), 1 / 8)
        for (key, _), table in zip(contexts(i, up, left, cell), self.tables[i], strict=True):
            seen = table[key]
            p = (seen + self.strength * p) / (seen.sum(-1, keepdim=True) + self.strength)
        return p

    def price(self, codes: Int[Tensor, "b n"]) -> Float[Tensor, "b n"]:
        """What each code costs, in bits."""
        here = levels(codes.view(-1, self.side, self.side))
        each = [self.level(i, *around(here)).gather(-1, here[..., i, None])[..., 0].log2() for i in range(4)]
        return -torch.stack(each).sum(0).flatten(1)

    def draw(self, b: int, seed: int = 0) -> Int[Tensor, "b n"]:
        """The codes of b pictures, row by row."""
        generator = torch.Generator().manual_seed(seed)
        grid = torch.full((b, self.side + 1, self.side + 1, 4), 8)
        for row in range(1, self.side + 1):
            for column in range(1, self.side + 1):
                cell, up, left = grid[:, row, column], grid[:, row - 1, column], grid[:, row, column - 1]
                for i in range(4):
                    cell[:, i] = torch.multinomial(self.level(i, up, left, cell), 1, generator=generator)[:, 0]
        return (grid[:, 1:, 1:] * 8 ** torch.arange(4)).sum(-1).flatten(1)


def levels(codes: Int[Tensor, "..."]) -> Int[Tensor, "... 4"]:
    """The four levels of each code, the lowest digit first.

    >>> levels(torch.tensor([8 + 2 * 64]))
    tensor([[0, 1, 2, 0]])
    """
    return codes[..., None] // 8 ** torch.arange(4) % 8


def around(here: Int[Tensor, "b h w 4"]) -> tuple[Tensor, Tensor, Tensor]:
    """The levels above each cell and to its left (8 where there is no cell), and its own."""
    up, left = torch.full_like(here, 8), torch.full_like(here, 8)
    up[:, 1:], left[:, :, 1:] = here[:, :-1], here[:, :, :-1]
    return up, left, here


def contexts(i: int, up: Tensor, left: Tensor, cell: Tensor) -> list[tuple[Tensor, int]]:
    """What level i is predicted from, as numbers below a size: nothing, the cell above, both cells, all that is known.

    >>> up, left, cell = torch.tensor([[1, 2, 0, 0]]), torch.tensor([[3, 4, 0, 0]]), torch.tensor([[5, 6, 0, 0]])
    >>> [(int(key), size) for key, size in contexts(1, up, left, cell)]
    [(0, 1), (2, 9), (22, 81), (203, 729)]
    """
    columns = [up[..., i], left[..., i], *cell[..., :i].unbind(-1)]
    key, found = torch.zeros_like(up[..., 0]), []
    for m in range(len(columns) + 1):
        if m < 3 or m == len(columns):
            found.append((key, 9**m))
        if m < len(columns):
            key = 9 * key + columns[m]
    return found
