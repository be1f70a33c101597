"""`top_vim`: a small classifier of photographs by scans alone, and what it becomes when it goes on with fewer tokens.

`full` learns from scratch to say what the house's `vit` says about views of the clothing photographs, the same that
`stvit` learns from, with all 256 tokens in six layers; `full, again` does so by another seed. Each of the others goes
on from it for a quarter of the steps, with 167, 109 and 71 tokens left after the second, third and fourth layer, and
one way to align its scans: `decay`, `hold` or `naive`. In `drawn` chance chooses the tokens that stay, aligned as in
`decay`; `whole` goes on with all tokens, for what the steps alone are worth. `again` goes on from `full, again`.
"""

import copy
import pathlib
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from minitok.data import clothing
from minitok.house._common import Options, in_chunks
from minitok.house.stvit import VIEWS, apart, bank
from minitok.metrics import accuracy
from minitok.reduce import Reduction, highest
from minitok.reduce.top_vim import ALIGN, VisionScan, keep_share, top_vim
from minitok.train import Plan, fit, pick_device

DATA = "clothing photographs, 64x64, 24 views of each: 3,068 to learn from, 372 held out; the house's vit as teacher"
PLAN = Plan(steps=800, lr=2e-3, warmup=80, weight_decay=0.05, ema=0.995)
WIDTH, LAYERS, BATCH = 88, 6, 128
SCHEDULE = keep_share(256, 0.65, (1, 2, 3))


def drawn(x: Float[Tensor, "b n c"], k: int, *, outputs: Float[Tensor, "b n d"]) -> Reduction:
    """The control of chance: any k tokens, by torch's global random numbers."""
    return Reduction.keep(highest(torch.rand(x.shape[:2], device=x.device), k), x.shape[1])


@dataclass(frozen=True)
class Way:
    """How a model reads pictures: a schedule or none, an alignment, and who chooses."""

    schedule: Mapping[int, int] | None = None
    align: str = "decay"
    chance: bool = False

    def said(self, model: nn.Module, images: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b classes"]:
        """The logits of pictures read in this way."""
        return model(images, self.schedule, self.align, drawn if self.chance else top_vim)


TUNED = {
    **{align: Way(SCHEDULE, align) for align in ALIGN},
    "drawn": Way(SCHEDULE, chance=True),
    "whole": Way(),
}
# Which go on from the second model too: to see what a seed is worth.
TWICE = tuple(ALIGN)


def start() -> VisionScan:
    """One classifier, not trained: 0.43 million parameters."""
    return VisionScan(WIDTH, LAYERS)


def names() -> dict[str, Way]:
    """All models by name, and the way in which each reads."""
    again = {f"{name}, again": TUNED[name] for name in TWICE}
    return {"full": Way(), "full, again": Way(), **TUNED, **again}


def build() -> nn.ModuleDict:
    """All of them, not trained."""
    return nn.ModuleDict({name: start() for name in names()})


def train(folder: pathlib.Path, options: Options) -> nn.Module:
    """Both full models, then what goes on from them; a run that was interrupted goes on with the model it was at."""
    plan, device, models = options.apply(PLAN), pick_device(options.device), {}
    torch.manual_seed(plan.seed)
    images, said = bank(min(VIEWS * clothing.COUNTS["train"], plan.steps * BATCH), device)
    short = replace(plan, steps=max(1, plan.steps // 4), lr=plan.lr / 4, warmup=plan.warmup // 4)

    for name, way in names().items():

        def loss(model: nn.Module, step: int, way=way) -> Tensor:
            rows = torch.randint(len(images), (BATCH,), device=device)
            return F.cross_entropy(way.said(model, images[rows].float()).float(), said[rows])

        seed, first = plan.seed + name.endswith("again"), name.startswith("full")
        torch.manual_seed(seed)
        made = start() if first else copy.deepcopy(models["full, again" if name.endswith("again") else "full"])
        own = replace(plan if first else short, seed=seed)
        models[name] = fit(made, loss, own, folder / name.replace(", ", "-"), **options.where())
    return nn.ModuleDict(models)


def quick(models: nn.ModuleDict) -> dict[str, float]:
    """How far some are from their teacher on every eighth test photograph, in bits (Kullback-Leibler)."""
    from minitok import house

    images, figures = clothing.load("test").images[::8], {}
    said = in_chunks(house.load("vit"), images).log_softmax(-1)
    for name in ("full", *ALIGN):
        found = in_chunks(lambda x, name=name: names()[name].said(models[name], x), images, 32)
        figures[f"{name}: bits from vit on every eighth test photograph"] = apart(found, said)
    return figures


def measure(models: nn.ModuleDict) -> dict[str, float]:
    """Accuracy of all on the photographs that nothing was learnt from; of `full` also as it is, with fewer tokens."""
    figures, test = quick(models), clothing.load("test")
    asked = [(name, models[name], way) for name, way in names().items()]
    asked += [(f"full, pruned as {align}", models["full"], Way(SCHEDULE, align)) for align in ALIGN]
    for name, model, way in asked:
        torch.manual_seed(0)  # for what `drawn` draws
        found = in_chunks(lambda x, model=model, way=way: way.said(model, x), test.images, 32)
        figures[f"{name}: accuracy on the 372 test photographs (%)"] = 100 * accuracy(found, test.labels)
    return figures
