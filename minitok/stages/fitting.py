"""How the projectors of chapter 7 are trained: before a frozen ViT and a frozen language model, all on one bank."""

import pathlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from minitok.data import scenes
from minitok.data.questions import SLOTS, Questions, ask
from minitok.house import Options
from minitok.house._answers import TRAINED, answer_loss, in_parts, packed
from minitok.train import Plan, fit
from minitok.vlm import VLM

PLAN = Plan(steps=1200, lr=1e-3, warmup=100, weight_decay=0.01, ema=0.99, save_every=10_000)
BATCH, SCENES = 128, 40_000


@dataclass(frozen=True)
class Bank:
    """What is the same for all projectors: features of many scenes, their questions in one row, and the answers."""

    features: Float[Tensor, "n 256 c"]
    asked: Questions
    words: Int[Tensor, "n t"]
    slots: Int[Tensor, " t"]
    targets: Int[Tensor, "n t"]


def bank(host: VLM, count: int, seed: int = TRAINED, size: int = 500) -> Bank:
    """Questions, and features in half precision, of `count` scenes that nothing is measured on."""
    device, features, asked = next(host.parameters()).device, [], []
    for start in range(0, count, size):
        drawn = scenes.render(min(size, count - start), seed=seed + start, device=device)
        features.append(in_parts(host.see, drawn.images).half())
        asked.append(ask(drawn, SLOTS, seed=seed + start))
    joined = Questions(*(torch.cat([getattr(part, name) for part in asked]) for name in vars(asked[0])))
    return Bank(torch.cat(features), joined, *packed(joined))


def train(
    projector: nn.Module,
    host: VLM,
    held: Bank,
    budgets: Callable[[], Sequence[int]],
    options: Options,
    folder: pathlib.Path | None = None,
) -> nn.Module:
    """Trains a projector so that the frozen language model answers rightly; returns it in eval mode.

    `budgets()` says with how many tokens a step is made: one number, a random one, or several whose losses are
    averaged. Every projector sees the same rows in the same order.
    """
    host.requires_grad_(False)

    def loss(model: nn.Module, step: int) -> Tensor:
        rows = torch.randint(len(held.words), (BATCH,)).to(held.words.device)
        x, words, targets, asked = held.features[rows].float(), held.words[rows], held.targets[rows], held.asked[rows]
        losses = []
        for k in budgets():
            logits = host.head(host.read(model(x, k), words, slots=held.slots))
            losses.append(answer_loss(logits, asked, held.slots, targets))
        return torch.stack(losses).mean()

    return fit(projector, loss, options.apply(PLAN), folder, **options.where())


def quickly(host: VLM) -> VLM:
    """On a GPU the language model's blocks are compiled, once for each number of tokens."""
    if next(host.parameters()).is_cuda:
        for block in host.lm.blocks:
            block.compile(dynamic=False)
    return host
