"""What speculative methods share: the loop that counts calls, and a model whose cache forgets rejected drafts.

Everything random goes through `pick` and `happens`, so that a test can try every outcome in turn.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Generator, Tensor

from minitok.attention import Cache
from minitok.checks import check_logits
from minitok.speculate._checks import check_context

Target = Callable[[Tensor, int], Tensor]
Draft = Callable[[Tensor, int, Generator | None], tuple[Tensor, Tensor]]
Accept = Callable[[Tensor, Tensor, Tensor, Generator | None], tuple[int, int]]


class Decoded(NamedTuple):
    """New tokens, and for each call of the target how many tokens were drafted and how many of these were kept."""

    tokens: Int[Tensor, "n"]
    kept: tuple[int, ...]
    drafted: tuple[int, ...]

    @property
    def calls(self) -> int:
        """Calls of the target: each gives the tokens that it kept and one of its own."""
        return len(self.kept)

    @property
    def of_draft(self) -> Bool[Tensor, "n"]:
        """Which of the tokens were drafted and kept; the others are the target's own.

        >>> Decoded(torch.tensor([7, 7, 5, 5]), kept=(2, 0), drafted=(3, 0)).of_draft.tolist()
        [True, True, False, False]
        """
        drafted = [one for kept in self.kept for one in [True] * kept + [False]]
        return torch.tensor(drafted, dtype=torch.bool, device=self.tokens.device)


def pick(p: Float[Tensor, "v"], generator: Generator | None = None) -> int:
    """A token drawn from probabilities, on the generator's device: one seed serves a model on any device.

    Raises `ValueError` for what cannot be drawn from: a NaN, a number below 0, or a sum that is 0 or infinite.
    """
    if not (float(p.min()) >= 0 and 0 < float(p.sum()) < float("inf")):
        raise ValueError(f"p of sum {float(p.sum())} and least {float(p.min())} came, expected probabilities")
    return int(torch.multinomial(p if generator is None else p.to(generator.device), 1, generator=generator))


def happens(probability: float | int, generator: Generator | None = None) -> bool:
    """True with the given probability; never at 0, always at 1."""
    device = generator.device if generator is not None else None
    return float(torch.rand((), dtype=torch.float64, generator=generator, device=device)) < probability


def probabilities(logits: Float[Tensor, "m v"], temperature: float | int = 1.0) -> Float[Tensor, "m v"]:
    """Softmax of `logits / temperature` in float64; temperature 0 puts all on the first of the highest logits.

    >>> probabilities(torch.tensor([[1.0, 3.0, 3.0]]), temperature=0).tolist()
    [[0.0, 1.0, 0.0]]

    So greedy decoding is drawing, too (arXiv 2211.17192, section 2.2). Raises `ValueError` for a negative temperature,
    or logits that hold NaN or infinity, whatever the temperature.
    """
    check_logits("logits", logits)
    if not 0 <= temperature < float("inf"):
        raise ValueError(f"temperature={temperature} came, expected a number from 0")
    if temperature == 0:
        return torch.zeros_like(logits, dtype=torch.float64).scatter(-1, logits.argmax(-1, keepdim=True), 1.0)
    return (logits.double() / temperature).softmax(-1)


class Cached:
    """A causal model as a function of all tokens so far, that computes only what its cache does not hold.

    `forward(new, cache)` takes the new tokens (1, n), extends the cache in place and returns logits (1, n, v), or more
    rows where it puts something of its own, such as a class, before the first token. A call keeps what the cache and
    the given tokens have in common and forgets the rest, such as rejected drafts. `calls` counts the calls.
    """

    def __init__(self, forward: Callable[[Tensor, Cache], Tensor], temperature: float | int = 1.0) -> None:
        self.forward, self.temperature = forward, temperature
        self.cache, self.calls = Cache(), 0
        self.held: Tensor | None = None

    @torch.no_grad()
    def __call__(self, tokens: Int[Tensor, "n"], m: int = 1) -> Float[Tensor, "m v"]:
        """Probabilities of the next token after each of the last m prefixes of `tokens`, the last being all of it.

        Raises `ValueError` where the model has no answer for so short a prefix.
        """
        check_context(tokens)
        if m < 1:
            raise ValueError(f"m={m} came, expected at least 1")
        known = self.recall(tokens, len(tokens) - m)
        logits = self.forward(tokens[None, known:], self.cache)[0]
        if len(logits) < m:
            raise ValueError(f"m={m} needs {m} rows of logits, but {len(tokens)} tokens gave only {len(logits)}")
        # A copy: the caller may write into its tokens before the next call.
        self.held, self.calls = tokens.clone(), self.calls + 1
        return probabilities(logits[-m:], self.temperature)

    def recall(self, tokens: Int[Tensor, "n"], most: int) -> int:
        """Cuts the cache down to what it shares with `tokens`, at most `most` of them, and returns how many these are.

        What the model put before the first token stays, unless its own row of logits is asked for (`most` below 0).
        """
        # Until the call is over nothing counts as held: an interrupted one leaves layers of unequal length.
        held, self.held = self.held, None
        if held is None or most < 0:
            self.cache = Cache()
            return 0
        size = min(len(held), len(tokens), most)
        same = int((held[:size] == tokens[:size]).int().cumprod(0).sum())
        self.cache.keep(slice(len(self.cache) - len(held) + same))
        return same


def drafter(model: Target) -> Draft:
    """A draft that draws one token after another from a model such as `Cached`: k calls for k tokens."""

    def draft(context: Tensor, k: int, generator: Generator | None) -> tuple[Tensor, Tensor]:
        tokens, rows = context, []
        for _ in range(k):
            rows.append(model(tokens, 1))
            tokens = torch.cat([tokens, tokens.new_tensor([pick(rows[-1][0], generator)])])
        return tokens[len(context) :], torch.cat(rows)

    return draft


def decode(
    target: Target,
    draft: Draft,
    accept: Accept,
    context: Int[Tensor, "c"],
    n: int,
    *,
    k: int = 4,
    generator: Generator | None = None,
    watch: Callable[[Tensor, Tensor, int], None] | None = None,
) -> Decoded:
    """Exactly n tokens after `context`: each call of the target judges up to k drafted tokens and adds one of its own.

    `draft(context, k, generator)` returns at most k tokens and the probabilities q (k, v) that it drew them from;
    `target(tokens, m)` the probabilities after the last m prefixes (see `Cached`); `accept(p, q, drafted, generator)`,
    with p (k + 1, v), how many of the drafted tokens are kept and the token that follows these. k = 0 is plain
    decoding. `watch(tokens so far, drafted, kept)` sees each call. Raises `ValueError` for negative n or k, a context
    that is no row of whole numbers, or a draft of more than k tokens.
    """
    check_context(context)
    if n < 0 or k < 0:
        raise ValueError(f"n={n} and k={k} came, expected at least 0 of each")
    tokens, kept, drafted = context, [], []
    while (left := len(context) + n - len(tokens)) > 0:
        # The target adds a token of its own, so one place of those left is not for the draft.
        room = min(k, left - 1)
        guess, q = draft(tokens, room, generator) if room else (tokens[:0], None)
        if len(guess) > room:
            raise ValueError(f"draft gave {len(guess)} tokens, expected at most {room}")
        p = target(torch.cat([tokens, guess]), len(guess) + 1)
        right, correction = accept(p, p[:0] if q is None else q, guess, generator)
        if watch is not None:
            watch(tokens, guess, right)
        tokens = torch.cat([tokens, guess[:right], tokens.new_tensor([correction])])
        kept.append(right)
        drafted.append(len(guess))
    return Decoded(tokens[len(context) :], tuple(kept), tuple(drafted))
