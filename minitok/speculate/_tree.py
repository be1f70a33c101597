"""What methods share that draft a tree: many continuations at once, judged by one call of the target.

The nodes of a tree stand in one row behind the context. A mask lets each see the context and its ancestors alone, and
its position is that of its depth, so the target answers at every node as if only the path to it had been written.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Generator, Tensor

from minitok.checks import check_logits
from minitok.speculate._checks import check_context
from minitok.speculate._common import Cached, Decoded, pick, probabilities


class Tree(NamedTuple):
    """Drafted tokens, and where the parent of each stands in the row (root, *tokens): 0 is the root, parents first."""

    tokens: Int[Tensor, "n"]
    parents: Int[Tensor, "n"]


@runtime_checkable
class Drafter(Protocol):
    """Proposes a tree below the last token of a context, and may learn from what the target says of it."""

    def draft(self, context: Tensor, depth: int) -> Tree:
        """A tree of at most `depth` levels."""
        ...

    def learn(self, row: Tensor, logits: Tensor, path: Tensor) -> None:
        """Sees the row (root, *tokens), the target's logits at each place of it, and the places that were walked."""
        ...


def ancestors(parents: Int[Tensor, "n"]) -> Bool[Tensor, "n1 n1"]:
    """Which places of the row (root, *nodes) each place sees: itself and those on its way up to the root.

    >>> ancestors(torch.tensor([0, 0, 1])).int().tolist()
    [[1, 0, 0, 0], [1, 1, 0, 0], [1, 0, 1, 0], [1, 1, 0, 1]]

    Raises `ValueError` where a parent does not stand before its child.
    """
    # Row by row on the processor: on a GPU each row would be a launch of its own.
    seen = torch.eye(len(parents) + 1, dtype=torch.bool, device="cpu")
    for node, parent in enumerate(parents.tolist(), start=1):
        if not 0 <= parent < node:
            raise ValueError(f"parents[{node - 1}]={parent} came, expected 0 to {node - 1}: a parent comes first")
        seen[node] |= seen[parent]
    return seen.to(parents.device)


def walk(tree: Tree, choose: Callable[[int], int]) -> tuple[Int[Tensor, "p"], int]:
    """Follows the target's choice from the root down while a child has it; returns the places, and the last choice.

    >>> tree = Tree(torch.tensor([7, 8, 9]), torch.tensor([0, 0, 2]))
    >>> walk(tree, [8, 1, 9, 5].__getitem__)
    (tensor([0, 2, 3]), 5)

    `choose(place)` is the token that the target wants after that place. The last choice has no child: it is new.
    """
    path = [0]
    while True:
        token = choose(path[-1])
        child = ((tree.parents == path[-1]) & (tree.tokens == token)).nonzero()
        if not len(child):
            return torch.tensor(path, device=tree.tokens.device), token
        path.append(int(child[0]) + 1)


def choice(logits: Float[Tensor, "n v"], temperature: float | int, generator: Generator | None, place: int) -> int:
    """The token that the target wants after a place: the likeliest at temperature 0, else one drawn."""
    return pick(probabilities(logits[place : place + 1], temperature)[0], generator)


class TreeCached(Cached):
    """A model that answers at all nodes of a tree in one call; the next call keeps the nodes that came true.

    `model(new, mask, positions=..., cache=...)` takes what `nn.Transformer` takes and returns logits (1, n, v).
    """

    def __init__(self, model: Callable[..., Tensor]) -> None:
        super().__init__(lambda new, cache: model(new, "causal", cache=cache))
        self.model = model
        self.tree: Tree | None = None

    @torch.no_grad()
    def branch(self, context: Int[Tensor, "c"], tree: Tree) -> Float[Tensor, "n1 v"]:
        """Logits of the next token after the context and after each node, from one call."""
        check_context(context)
        seen = ancestors(tree.parents)
        self.compact(context)
        known, end = self.recall(context, len(context) - 1), len(context)
        rows, columns = end - known + len(tree.tokens), end + len(tree.tokens)
        mask = torch.ones(rows, columns, dtype=torch.bool, device=context.device).tril(known)
        mask[end - 1 - known :, end - 1 :] = seen
        before = torch.arange(known, end - 1, device=context.device)
        positions = torch.cat([before, end - 2 + seen.sum(-1)]).float()
        new = torch.cat([context[known:], tree.tokens])
        logits = self.model(new[None], mask, positions=positions[None], cache=self.cache)[0]
        self.held, self.tree, self.calls = context.clone(), tree, self.calls + 1
        return logits[end - 1 - known :]

    def compact(self, context: Int[Tensor, "c"]) -> None:
        """Cuts the cache down to what it held before its tree, and the nodes of that tree along `context`."""
        held, tree, self.tree = self.held, self.tree, None
        if held is None or tree is None:
            return
        come = context[len(held) :] if torch.equal(context[: len(held)], held) else context[:0]
        choices = iter([*come.tolist(), -1])
        path = walk(tree, lambda place: next(choices))[0][1:]
        start = len(self.cache) - len(tree.tokens)
        self.cache.keep(torch.cat([torch.arange(start, device=path.device), start + path - 1]))
        self.held = torch.cat([held, tree.tokens[path - 1]])


def decode_tree(
    target: Callable[[Tensor, Tree], Tensor],
    drafter: Drafter,
    context: Int[Tensor, "c"],
    n: int,
    *,
    temperature: float | int = 0,
    generator: Generator | None = None,
    watch: Callable[[Tensor, Tree, Tensor], None] | None = None,
) -> Decoded:
    """Exactly n tokens after `context`: each call judges a tree, keeps the path that came true, and adds a token.

    `target(context, tree)` returns logits at the root and at each node (`TreeCached.branch`). At each place that is
    walked the next token is drawn from the target itself, so drafts change the number of calls and nothing else.
    `watch(context, tree, path)` sees each call. Raises `ValueError` for a negative n, a context that is no row of whole
    numbers, a negative temperature, logits that hold NaN or infinity, or a tree deeper than the tokens that are left.
    """
    check_context(context)
    if n < 0 or not len(context):
        raise ValueError(f"n={n} and a context of {len(context)} tokens came, expected n from 0 and at least 1 token")
    tokens, kept, drafted = context, [], []
    while (left := len(context) + n - len(tokens)) > 0:
        tree = drafter.draft(tokens, left - 1)
        if len(tree.tokens) and int(ancestors(tree.parents).sum(-1).max()) > left:
            raise ValueError(f"the draft is deeper than {left - 1} levels, and only {left} tokens are left")
        logits = target(tokens, tree)
        check_logits("logits", logits)
        path, new = walk(tree, partial(choice, logits, temperature, generator))
        drafter.learn(torch.cat([tokens[-1:], tree.tokens]), logits, path)
        if watch is not None:
            watch(tokens, tree, path)
        tokens = torch.cat([tokens, tree.tokens[path[1:] - 1], tokens.new_tensor([new])])
        kept.append(len(path) - 1)
        drafted.append(len(tree.tokens))
    return Decoded(tokens[len(context) :], tuple(kept), tuple(drafted))
