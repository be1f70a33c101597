"""SliME's router before a host that was not trained for it: which of its own tokens of crops a question keeps."""

from collections.abc import Callable
from dataclasses import replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from minitok.data.questions import ask
from minitok.stages import project
from minitok.stages.reading import Stage
from minitok.vlm import ManyVLM


def digits(scenes: int, most: int = 6) -> Stage:
    """The stage on large scenes, each asked for its digits, every digit once."""
    made = project.stage(scenes, of="crops")
    asked = ask(made.scenes, (("digit",),) * most, seed=2 * 10**6)
    again = (asked.first[:, :, None] == asked.first[:, None]).tril(-1).any(2)
    return replace(made, asked=replace(asked, kind=asked.kind.masked_fill(again, -1)))


def most(scores: Float[Tensor, "b n"], few: int | Int[Tensor, " b"]) -> Bool[Tensor, "b n"]:
    """Which tokens have the highest scores, so many in each row; of equal ones the first.

    >>> most(torch.tensor([[1.0, 3.0, 3.0, 2.0]]), 2)
    tensor([[False,  True,  True, False]])
    """
    turn = scores.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
    return turn < (few if isinstance(few, int) else few[:, None])


Choice = Callable[[Tensor, Tensor, Tensor], Tensor]


class Routed:
    """The host's own tokens: the 64 of the thumbnail, and those of the crops that `choose(local, text, asked)` keeps.

    What is kept stays in its order and at its place. `kept` says how many were in each row of the largest call.
    """

    def __init__(self, choose: Choice) -> None:
        self.choose, self.kept = choose, torch.zeros(0)

    def read(
        self,
        host: ManyVLM,
        x: Float[Tensor, "b n c"],
        words: Int[Tensor, "b t"],
        k: int | None = None,
        *,
        slots: Int[Tensor, " t"] | None = None,
        text: Float[Tensor, "b t d"],
        asked: Bool[Tensor, "b t"],
    ) -> Float[Tensor, "b t d"]:
        """What the host makes of the words; rows with equally many tokens are read together."""
        tokens = host.project(x)
        view = tokens.shape[1] // (x.shape[1] // host.side**2)
        kept = torch.ones(tokens.shape[:2], dtype=torch.bool, device=x.device)
        kept[:, view:] = self.choose(tokens[:, view:], text, asked)
        counts, states = kept[:, view:].sum(1), torch.empty_like(text)
        self.kept = counts if len(counts) >= len(self.kept) else self.kept
        for count in counts.unique():
            rows = (counts == count).nonzero()[:, 0]
            at = kept[rows].nonzero()[:, 1].view(len(rows), -1)
            visual = tokens[rows].gather(1, at[..., None].expand(-1, -1, tokens.shape[-1]))
            states[rows] = host.read(visual, words[rows], at=at.float(), slots=slots)
        return states
