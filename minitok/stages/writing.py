"""Text as the work of chapter 5: SmolLM2 goes on with two pieces of prose and two of code, from trees of guesses."""

import functools
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from minitok.house import smollm2
from minitok.speculate import (
    Cached,
    Decoded,
    Drafter,
    TokenRecycling,
    Tree,
    TreeCached,
    decode,
    decode_tree,
    drafter,
    speculative,
    walk,
)
from minitok.speculate.token_recycling import recycle

PASSAGES = {
    "prose: tides": (
        "The tide is the rise and fall of the sea. It is caused by the pull of the moon and by the pull of the sun. "
        "When the sun and the moon stand in one line, the tide is high. When they do not stand in one line,"
    ),
    "code: stack": (
        'class Stack:\n    """A stack of items."""\n\n    def __init__(self):\n        self.items = []\n\n'
        "    def push(self, item):\n        self.items.append(item)\n\n    def pop(self):\n        return"
    ),
    "prose: bread": (
        "Bread needs four things: flour, water, salt and yeast. First the flour is mixed with the water. Then the salt "
        "and the yeast are added, and the dough is kneaded until it is smooth. After that, the dough"
    ),
    "code: mean": (
        "def mean(numbers):\n    total = 0\n    for number in numbers:\n        total += number\n"
        "    return total / len(numbers)\n\n\ndef variance(numbers):\n    total ="
    ),
}
Call = tuple[Tensor, Tree, Tensor]


@dataclass(frozen=True)
class Written:
    """One text: how it came about, the calls (context, tree, walked places), and the seconds of one thread."""

    run: Decoded
    calls: tuple[Call, ...]
    seconds: float


class Frozen(TokenRecycling):
    """Control: the matrix stays as it is."""

    def learn(self, row: Tensor, logits: Tensor, path: Tensor | None = None) -> None:
        """Learns nothing."""


class KeptOnly(TokenRecycling):
    """Control: only the tokens that are written update the matrix."""

    def learn(self, row: Tensor, logits: Tensor, path: Tensor | None = None) -> None:
        """Recycles the walked places alone."""
        places = slice(0) if path is None else path
        recycle(self.matrix, row[places], logits[places])


class Lookup:
    """Control: what followed the last three tokens (else two, else one) when they stood before, ten tokens of it."""

    def draft(self, context: Tensor, depth: int) -> Tree:
        """A tree of one branch, or of none."""
        for n in range(min(3, len(context) - 1), 0, -1):
            before = (context.unfold(0, n, 1)[:-1] == context[-n:]).all(1).nonzero().flatten()
            if len(before):
                start = int(before[-1]) + n
                found = context[start : start + min(10, depth)]
                return Tree(found, torch.arange(len(found)))
        return Tree(context[:0], context[:0])

    def learn(self, row: Tensor, logits: Tensor, path: Tensor) -> None:
        """Learns nothing."""


@dataclass(frozen=True, eq=False)
class Stage:
    """SmolLM2 and the passages that it goes on with; see `write` and `replay`."""

    model: Any
    prompts: dict[str, Int[Tensor, "c"]]

    def say(self, tokens: Int[Tensor, "n"]) -> str:
        """Tokens as text."""
        return self.model.tokenizer.decode(tokens.tolist())

    @functools.cache  # noqa: B019 - a stage lives as long as its lesson
    @torch.no_grad()
    def read(self, name: str) -> Float[Tensor, "c v"]:
        """The model's logits after each token of a prompt."""
        return self.model(self.prompts[name][None])[0]

    def recycling(self, name: str, kind: type[TokenRecycling] = TokenRecycling, **settings: Any) -> TokenRecycling:
        """A drafter whose matrix has read the prompt: its logits are there anyway."""
        memory = kind(len(self.model.tokenizer), **settings)
        recycle(memory.matrix, self.prompts[name], self.read(name))
        return memory

    def plain(self, name: str, n: int) -> Written:
        """n tokens after a prompt, greedily, a call for each."""
        begin = time.process_time()
        greedy = Cached(lambda new, cache: self.model(new, cache=cache), temperature=0)
        run = decode(greedy, drafter(greedy), speculative.accept, self.prompts[name], n, k=0)
        return Written(run, (), time.process_time() - begin)

    def write(self, name: str, memory: Drafter, n: int) -> Written:
        """n tokens after a prompt, greedily."""
        calls: list[Call] = []
        begin = time.process_time()
        target = TreeCached(self.model).branch
        run = decode_tree(target, memory, self.prompts[name], n, watch=lambda *call: calls.append(call))
        return Written(run, tuple(calls), time.process_time() - begin)

    @torch.no_grad()
    def answers(self, name: str, tokens: Int[Tensor, "n"]) -> Float[Tensor, "cn v"]:
        """The logits after each token of a prompt and what follows it, from one call."""
        return self.model(torch.cat([self.prompts[name], tokens])[None])[0]

    def replay(self, name: str, memory: Drafter, tokens: Tensor, answers: Tensor) -> Decoded:
        """How a drafter would have fared on a text that is known: no call of the model.

        For drafters that learn nothing from rejected nodes: of these nothing is known. `answers` as from that method.
        """
        whole = torch.cat([self.prompts[name], tokens])

        def target(context: Tensor, tree: Tree) -> Tensor:
            coming = iter([*whole[len(context) :].tolist(), -1])
            path, _ = walk(tree, lambda place: next(coming))
            rows = answers.new_zeros(len(tree.tokens) + 1, answers.shape[1])
            rows[path] = answers[len(context) - 1 :][: len(path)]
            return rows

        return decode_tree(target, memory, self.prompts[name], len(tokens))


def stage(texts: int = 4) -> Stage:
    """The stage with the first so many passages, prose and code in turn."""
    model = smollm2.load()
    chosen = list(PASSAGES.items())[:texts]
    return Stage(model, {name: torch.tensor(model.tokenizer.encode(text)) for name, text in chosen})


CONTROLS: dict[str, Callable[[Stage, str], Drafter]] = {
    "frozen": lambda stage, name: stage.recycling(name, Frozen),
    "kept only": lambda stage, name: stage.recycling(name, KeptOnly),
    "lookup": lambda stage, name: Lookup(),
}
