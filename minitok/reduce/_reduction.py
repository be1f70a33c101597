"""A reduction: the map from n tokens to k that every method of this chapter returns.

It is a matrix M (k, n) whose rows sum to 1, and the new tokens are `y = M x`. Pruning picks rows of x, merging averages
them, blending mixes them; `Reduction.keep`, `.merge` and `.blend` hold each in its cheapest form.
The way back asks which share of token i went into output j. That is C: M with each column divided by its sum (the
column of a dropped token stays zero). `restore(y)` is `C^T y`: a merged token gets its cluster's value, a dropped one
zeros. `sizes(s)` is `C s`: what was not dropped is neither lost nor counted twice.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from minitok.checks import readable
from minitok.reduce._checks import around, check_rows, check_signal, check_weights, check_whole, precise, product


class Reduction(ABC):
    """From n tokens to k, for each row of a batch; made by `keep`, `merge` or `blend`. `on_layer` may return one."""

    @staticmethod
    def keep(indices: Int[Tensor, "b k"], n: int) -> "Kept":
        """The tokens of these indices, in the order given; all others are dropped.

        >>> Reduction.keep(torch.tensor([[0, 2]]), n=3).apply(torch.tensor([[[1.0], [5.0], [9.0]]])).flatten().tolist()
        [1.0, 9.0]

        Raises `ValueError` for indices that repeat or are not whole numbers from 0 to n - 1.
        """
        check_whole("indices", indices, 0, n - 1)
        if readable(indices) and (indices.sort(-1).values.diff() == 0).any():
            raise ValueError("indices name a token twice, expected different ones in each row")
        return Kept(indices.long(), n)

    @staticmethod
    def merge(assignment: Int[Tensor, "b n"], k: int, weights: Float[Tensor, "b n"] | None = None) -> "Merged":
        """Output j is the mean of the tokens assigned to j, weighed by `weights` (default: alike); -1 drops a token.

        >>> x, assignment = torch.tensor([[[1.0], [5.0], [9.0]]]), torch.tensor([[0, 0, 1]])
        >>> Reduction.merge(assignment, k=2, weights=torch.tensor([[3.0, 1.0, 1.0]])).apply(x).flatten().tolist()
        [2.0, 9.0]

        A token of weight 0 adds nothing to its cluster, but its size does. Raises `ValueError` for an assignment
        outside -1 to k - 1, weights that are negative or of another shape, and an output without any weight.
        """
        check_whole("assignment", assignment, -1, k - 1)
        weights = torch.ones(assignment.shape, device=assignment.device) if weights is None else weights
        check_signal("weights", weights, tuple(assignment.shape))
        merged = Merged(assignment.long(), k, precise(weights))
        check_weights(weights, merged.totals())
        return merged

    @staticmethod
    def blend(weights: Float[Tensor, "b k n"]) -> "Blended":
        """Output j is the mean of all tokens, weighed by row j of `weights`.

        >>> Reduction.blend(torch.tensor([[[3.0, 1.0]]])).apply(torch.tensor([[[1.0], [5.0]]])).flatten().tolist()
        [2.0]

        Raises `ValueError` for weights that are negative, and for a row without any.
        """
        check_signal("weights", weights, (None, None, None))
        check_weights(weights, total := precise(weights).sum(-1, keepdim=True))
        return Blended(precise(weights) / total)

    @property
    @abstractmethod
    def shape(self) -> tuple[int, int, int]:
        """That of M: b, k, n."""

    @abstractmethod
    def matrix(self) -> Float[Tensor, "b k n"]:
        """M: its rows sum to 1."""

    @abstractmethod
    def beside(self, before: int = 1, after: int = 0) -> "Reduction":
        """The same among tokens that stay as they are, such as a CLS token before it or a text after it."""

    def apply(self, x: Float[Tensor, "b n c"]) -> Float[Tensor, "b k c"]:
        """`y = M x`, in the type of x. Raises `ValueError` unless x has n tokens, as all that follow do alike."""
        check_rows("x", x, (self.shape[0], self.shape[2]))
        return product(self.matrix(), x)

    def restore(self, y: Float[Tensor, "b k c"]) -> Float[Tensor, "b n c"]:
        """`C^T y`: for each token the mean of the outputs that it went into; zeros for one that was dropped."""
        check_rows("y", y, self.shape[:2])
        return product(self.shares().mT, y)

    def sizes(self, size: Float[Tensor, "b n"]) -> Float[Tensor, "b k"]:
        """`C s`: how many tokens each output stands for, given how many each input stood for."""
        check_rows("size", size[..., None], (self.shape[0], self.shape[2]))
        return product(self.shares(), size[..., None])[..., 0]

    def shares(self) -> Float[Tensor, "b k n"]:
        """C: of each token, the share that went into each output."""
        return ((matrix := self.matrix()) / matrix.sum(1, keepdim=True)).nan_to_num(0.0)

    @property
    def order(self) -> Int[Tensor, "b k"]:
        """Where each output comes from: the token that was kept, the first one merged, or the one that weighs most."""
        return self.matrix().argmax(-1)


@dataclass(frozen=True)
class Kept(Reduction):
    """Some tokens, as they were."""

    indices: Int[Tensor, "b k"]
    tokens: int

    @property
    def shape(self) -> tuple[int, int, int]:
        return (*self.indices.shape, self.tokens)  # pyright: ignore[reportReturnType]

    def matrix(self) -> Float[Tensor, "b k n"]:
        return F.one_hot(self.indices, self.tokens).float()

    def apply(self, x: Float[Tensor, "b n c"]) -> Float[Tensor, "b k c"]:
        check_rows("x", x, (len(self.indices), self.tokens))
        return x.gather(1, self.indices[..., None].expand(-1, -1, x.shape[2]))

    def restore(self, y: Float[Tensor, "b k c"]) -> Float[Tensor, "b n c"]:
        check_rows("y", y, self.shape[:2])
        return y.new_zeros(len(y), self.tokens, y.shape[2]).scatter(1, self.indices[..., None].expand_as(y), y)

    def sizes(self, size: Float[Tensor, "b n"]) -> Float[Tensor, "b k"]:
        check_rows("size", size[..., None], (len(self.indices), self.tokens))
        return size.gather(1, self.indices)

    @property
    def order(self) -> Int[Tensor, "b k"]:
        return self.indices

    def beside(self, before: int = 1, after: int = 0) -> "Kept":
        return Kept(around(self.indices + before, self.tokens, before, after), before + self.tokens + after)


@dataclass(frozen=True)
class Merged(Reduction):
    """Clusters of tokens, each as its mean; the sums run over an output more, which takes what is dropped."""

    assignment: Int[Tensor, "b n"]
    outputs: int
    weights: Float[Tensor, "b n"]

    @property
    def shape(self) -> tuple[int, int, int]:
        return len(self.assignment), self.outputs, self.assignment.shape[1]

    def sums(self, x: Float[Tensor, "b n c"]) -> Float[Tensor, "b k c"]:
        """The sum over each cluster."""
        zeros = x.new_zeros(len(x), 1 + self.outputs, x.shape[2])
        return zeros.scatter_add(1, (self.assignment + 1)[..., None].expand_as(x), x)[:, 1:]

    def totals(self) -> Float[Tensor, "b k 1"]:
        """The weight of each cluster."""
        return self.sums(self.weights[..., None])

    def matrix(self) -> Float[Tensor, "b k n"]:
        return self.shares() * self.weights[:, None] / self.totals()

    def shares(self) -> Float[Tensor, "b k n"]:
        return F.one_hot(self.assignment + 1, 1 + self.outputs)[..., 1:].mT.to(self.weights.dtype)

    def apply(self, x: Float[Tensor, "b n c"]) -> Float[Tensor, "b k c"]:
        check_rows("x", x, (self.shape[0], self.shape[2]))
        return (self.sums(precise(x) * self.weights[..., None]) / self.totals()).to(x.dtype)

    @property
    def order(self) -> Int[Tensor, "b k"]:
        return self.shares().argmax(-1)

    def beside(self, before: int = 1, after: int = 0) -> "Merged":
        inner = torch.where(self.assignment < 0, -1, self.assignment + before)
        assignment = around(inner, self.outputs, before, after)
        return Merged(assignment, before + self.outputs + after, F.pad(self.weights, (before, after), value=1.0))


@dataclass(frozen=True)
class Blended(Reduction):
    """Any mixture of tokens."""

    mixture: Float[Tensor, "b k n"]

    @property
    def shape(self) -> tuple[int, int, int]:
        return tuple(self.mixture.shape)  # pyright: ignore[reportReturnType]

    def matrix(self) -> Float[Tensor, "b k n"]:
        return self.mixture

    def beside(self, before: int = 1, after: int = 0) -> "Blended":
        matrix = F.pad(self.mixture, (before, after, before, after))
        for i in (*range(before), *range(-after, 0)):
            matrix[:, i, i] = 1
        return Blended(matrix)
