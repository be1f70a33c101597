"""The last word of each question as a step of decoding: which neurons does the answer need?"""

from collections.abc import Callable, Mapping

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from minitok.nn import Block
from minitok.reduce.corematching import activations
from minitok.stages import answers
from minitok.stages.reduce_rows import Row
from minitok.stages.reduce_vlm import Stage

# Which neurons are computed, of those of the tokens before and whether these are tokens, and of the word's own.
Choose = Callable[[Float[Tensor, "r m f"], Bool[Tensor, "r m"], Float[Tensor, "r f"]], Bool[Tensor, "r f"]]


@torch.no_grad()
def decoded(stage: Stage, ways: Mapping[str, Choose]) -> dict[str, Row]:
    """The answers when the last word passes each feed-forward part with the neurons that a way leaves, for each way.

    All tokens stay. What stands before the word is computed in full, as a prompt is, and does not see it. `flops` is
    the share of the feed-forward parts' neurons that is left for the word.
    """
    at, (picture, slot) = stage.start, stage.rows.unbind(1)
    n, t = at.visual.shape[1], int((at.slots == 0).sum())
    own = n + slot[:, None] * t + torch.arange(t)
    index = torch.cat([torch.arange(n).expand(len(own), -1), own], 1)
    rows, end = (picture[:, None], index[:, :-1]), (picture, index[:, -1])
    there = (index[:, :-1] < n) | (at.words[picture[:, None], (index[:, :-1] - n).clamp(min=0)] != 0)
    x, blocks = at.begun()
    places = at.places.expand(len(x), -1)
    said, shares = dict.fromkeys(ways, x[end][:, None]), {name: [] for name in ways}
    for block in blocks:
        x, neurons, past = prompted(block, x, places, at.seen)
        before = neurons[rows]
        keys, values = (held.transpose(1, 2)[rows].transpose(1, 2) for held in past)

        def longer(key: Tensor, value: Tensor, keys: Tensor = keys, values: Tensor = values) -> tuple[Tensor, Tensor]:
            return torch.cat([keys, key], 2), torch.cat([values, value], 2)

        for name, choose in ways.items():
            y = said[name] + block.attention(block.norm1(said[name]), places[end][:, None], None, longer)
            fires = activations(block.mlp, block.norm2(y))
            left = choose(before, there, fires[:, 0])
            shares[name].append(float(left.float().mean()))
            said[name] = y + block.mlp.out(fires * left[:, None])
    return {name: told(stage, y[:, 0], sum(shares[name]) / len(blocks)) for name, y in said.items()}


def prompted(block: Block, x: Tensor, places: Tensor, seen: Tensor) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor]]:
    """What a layer makes of all tokens, its neurons on the way, and the keys and values."""
    held: list[tuple[Tensor, Tensor]] = []

    def hold(keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        held.append((keys, values))
        return keys, values

    x = x + block.attention(block.norm1(x), places, seen, hold)
    neurons = activations(block.mlp, block.norm2(x))
    return x + block.mlp.out(neurons), neurons, held[0]


def told(stage: Stage, y: Float[Tensor, "r c"], share: float) -> Row:
    """The row of the answers that the last words' states say."""
    logits = stage.host.head(stage.host.lm.norm(y))
    found = answers.row(logits, stage.before, stage.questions.answer[:, 0], share)
    return stage.told(found, torch.full((len(y),), torch.nan), stage.start.visual.shape[1], "neurons")
