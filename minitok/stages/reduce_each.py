"""Methods that say themselves how many visual tokens a question needs, on the stage of questions about scenes."""

import inspect
import math
from collections.abc import Callable

import torch
from jaxtyping import Int
from torch import Tensor

from minitok.reduce import Reduction, cost
from minitok.stages import answers
from minitok.stages.reduce_rows import Row, held, mean, needs
from minitok.stages.reduce_steps import asked_for
from minitok.stages.reduce_vlm import PART, Stage

Method = Callable[..., Reduction]
Budget = Callable[..., Tensor]


@torch.no_grad()
def budgets(stage: Stage, budget: Budget, layer: int | None = None) -> Int[Tensor, "r"]:
    """The number of tokens of each question by `budget(x, signals...)`, one question a row."""
    at, names = stage.cut(layer), list(inspect.signature(budget).parameters)
    parts = [at.alone(rows, names) for rows in stage.rows.split(PART)]
    return torch.cat([budget(part.visual, **asked_for(budget, part)) for part in parts])


@torch.no_grad()
def measure(stage: Stage, method: Method | list[Method], counts: Int[Tensor, "r"], layer: int | None = None) -> Row:
    """As `stage.measure`, where question i has `counts[i]` tokens; FLOPs are means, the method's own are not counted.

    So a method that adapts meets others at the same numbers of tokens, question by question.
    """
    if not callable(method):
        return mean([measure(stage, one, counts, layer) for one in method])
    at, names = stage.cut(layer), list(inspect.signature(method).parameters)
    logits, recall = torch.zeros_like(stage.before), torch.zeros(len(counts))
    for k in counts.unique().tolist():
        for some in (counts == k).nonzero()[:, 0].split(PART):
            made, said = stage.tried(method, k, at.alone(stage.rows[some], names))
            logits[some] = said[:, 0]
            recall[some] = held(made, stage.objects[some], torch.arange(len(some)), stage.patch)
    flops = sum(spent(stage, k, layer) for k in counts.tolist()) / len(counts)
    found = answers.row(logits, stage.before, stage.questions.answer[:, 0], flops, math.nan)
    return stage.told(found, recall, round(float(counts.float().mean())), needs(names))


def spent(stage: Stage, k: int, layer: int | None) -> float:
    """FLOPs of the language model for one question with k tokens, as a share of those with all."""
    lm, n, t = stage.host.lm, stage.start.visual.shape[1], stage.asked.words.shape[2]
    left = cost(lm, {}, k, first=t) if layer is None else cost(lm, {layer: k}, n, first=t)
    return left / cost(lm, {}, n, first=t)
