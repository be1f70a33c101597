"""`stvit`: small ViTs of equal depth and steps that end with 16 tokens or 4, by STViT or its controls, or with 256.

All learn from scratch to say what the house's `vit` says about views of the clothing photographs: 24 views of each,
some blended with another, made once and the same for all in the same order. `again` is a second run by another seed.
`full` keeps 256 tokens in all six layers; the others have two layers on all tokens, two that make fewer, two on these:
`stvit` (maxima first), `mean` (means first), `queries` (learnt vectors first), `pooled` (maxima, which do not look at
the patches), and `pruned`, where the 16 that CLS attends to in the third layer stay, beside CLS.
"""

import math
import pathlib
from collections.abc import Callable
from dataclasses import replace

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from minitok.data import clothing
from minitok.house._common import Options, in_chunks
from minitok.house.vit import mixed, view
from minitok.metrics import accuracy
from minitok.nn import Shape
from minitok.reduce import Reduction, highest, once
from minitok.reduce.stvit import SemanticTokens, STViT
from minitok.train import Plan, fit, pick_device
from minitok.vit import ViT

DATA = "clothing photographs, 64x64, 24 views of each: 3,068 to learn from, 372 held out; the house's vit as teacher"
PLAN = Plan(steps=1000, lr=2e-3, warmup=100, weight_decay=0.05, ema=0.995)
SHAPE = Shape(width=64, layers=6, heads=4, pairing=None)
BATCH, VIEWS, EARLY = 256, 24, 2
# With which the layers that make semantic tokens begin: from the paper's 1e-5 they reach 0.01 in hundreds of steps.
SCALE = 0.1


class Queries(SemanticTokens):
    """The control that starts from learnt vectors: they know nothing of the picture before they look."""

    def start(self, x: Float[Tensor, "b n c"]) -> Float[Tensor, "b k c"]:
        return self.centres.expand(len(x), -1, -1)


class Pooled(SemanticTokens):
    """The control that never looks back: pooled tokens see one another only."""

    def context(self, s: Float[Tensor, "b k c"], x: Float[Tensor, "b n c"], more: Tensor) -> Float[Tensor, "b m c"]:
        return s


class Pruned(nn.Module):
    """The control that picks: after an attention on all, the k patches stay that CLS attends to most, over heads."""

    def __init__(self, shape: Shape = SHAPE, k: int = 16) -> None:
        super().__init__()
        self.vit, self.k = ViT(shape), k

    def forward(self, images: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b classes"]:
        def best(x: Tensor, k: int, *, cls_attention: Tensor) -> Reduction:
            return Reduction.keep(highest(cls_attention.float().mean(1), k), x.shape[1])

        return self.vit(images, once(EARLY, self.k, best))


def semantic(made: type[SemanticTokens] = SemanticTokens, side: int = 4, pool: str = "max") -> STViT:
    """An STViT whose semantic tokens are made by STViT itself or by a control."""
    return STViT(SHAPE, early=EARLY, tokens=made(SHAPE.width, SHAPE.heads, side, pool, SCALE))


KINDS: dict[str, Callable[[], nn.Module]] = {
    "full": lambda: ViT(SHAPE), "stvit": semantic, "queries": lambda: semantic(Queries),
    "pooled": lambda: semantic(Pooled), "pruned": Pruned, "mean": lambda: semantic(pool="mean"),
    "stvit, 4 tokens": lambda: semantic(side=2),
}  # fmt: skip
# Which are trained a second time, by another seed: to see what a seed is worth.
TWICE = ("full", "stvit", "queries", "pooled", "pruned")


def runs() -> list[tuple[str, str, int]]:
    """Name, kind and seed of each training."""
    return [*((kind, kind, 0) for kind in KINDS), *((f"{kind}, again", kind, 1) for kind in TWICE)]


def build() -> nn.ModuleDict:
    """All of them by name, not trained: 0.35 million parameters each, 4.2 together."""
    return nn.ModuleDict({name: KINDS[kind]() for name, kind, _ in runs()})


@torch.no_grad()
def bank(count: int, device: torch.device) -> tuple[Float[Tensor, "n 3 64 64"], Float[Tensor, "n 10"]]:
    """So many views of photographs in half precision, each photograph as often as any other, and what `vit` says."""
    from minitok import house

    teacher, photographs = house.load("vit").to(device), clothing.load("train").images.to(device)
    views, said = [], []
    for rows in torch.arange(count, device=device).split(512):
        views.append(mixed(view(photographs[rows % len(photographs)]))[0].half())
        said.append(teacher(views[-1].float()).float().softmax(-1))
    return torch.cat(views), torch.cat(said)


def train(folder: pathlib.Path, options: Options) -> nn.Module:
    """One after another, on the same views; a run that was interrupted goes on with the model it was at."""
    plan, device, models = options.apply(PLAN), pick_device(options.device), {}
    torch.manual_seed(plan.seed)
    images, said = bank(min(VIEWS * clothing.COUNTS["train"], plan.steps * BATCH), device)

    def loss(model: nn.Module, step: int) -> Tensor:
        rows = torch.randint(len(images), (BATCH,), device=device)
        return F.cross_entropy(model(images[rows].float()).float(), said[rows])

    for name, kind, seed in runs():
        own = replace(plan, seed=plan.seed + seed)
        torch.manual_seed(own.seed)
        models[name] = fit(KINDS[kind](), loss, own, folder / name.replace(", ", "-"), **options.where())
    return nn.ModuleDict(models)


def quick(models: nn.ModuleDict) -> dict[str, float]:
    """How far some models are from their teacher on every eighth test photograph, in bits (Kullback-Leibler)."""
    from minitok import house

    images = clothing.load("test").images[::8]
    said = in_chunks(house.load("vit"), images).log_softmax(-1)
    names = {f"{name}: bits from vit on every eighth test photograph": name for name in ("full", "stvit", "pruned")}
    return {figure: apart(in_chunks(models[name], images), said) for figure, name in names.items()}


def apart(logits: Float[Tensor, "b v"], said: Float[Tensor, "b v"]) -> float:
    """The mean divergence of what is answered from the log-probabilities `said`, in bits."""
    return float(F.kl_div(logits.log_softmax(-1), said, log_target=True, reduction="batchmean")) / math.log(2)


def measure(models: nn.ModuleDict) -> dict[str, float]:
    """Accuracy of all on the photographs that nothing was learnt from."""
    figures, test = quick(models), clothing.load("test")
    for name, model in models.items():
        right = accuracy(in_chunks(model, test.images), test.labels)
        figures[f"{name}: accuracy on the 372 test photographs (%)"] = 100 * right
    return figures
