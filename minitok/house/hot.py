"""`hot`: small lifters of 2D poses to 3D, of equal steps: all 81 frames in all layers, or 27 of them in three of four.

All learn from scratch from the same sequences of stick figures in the same order. Four pairs of layers over joints and
over time; after the first one `hot` keeps the centres of clusters, `uniform` every third frame, `random` any 27, new in
each batch, and `pooled` the means of three. All of these recover the 81 by attention (TRA); `hot, between` and
`uniform, between` draw straight lines between kept frames instead. `shallow` has all frames and two pairs, which cost
as much as the four of the others. `again` is a second run by another seed.
"""

import pathlib
from collections.abc import Callable
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor, nn

from minitok.data import poses
from minitok.house._common import Options, in_chunks
from minitok.nn import Shape
from minitok.reduce import Reduction, highest
from minitok.reduce.hot import Hourglass, hot, lifting_loss, mpjpe
from minitok.train import Plan, fit, pick_device

DATA = "stick figures that walk and halt: 12,288 sequences of 81 frames to learn from, 256 held out, errors of 0.01"
PLAN = Plan(steps=800, lr=2e-3, warmup=80, weight_decay=0.05, ema=0.995)
SHAPE = Shape(width=64, layers=4, heads=4, pairing=None)
BATCH, BANK, TEST, FRAMES, KEPT = 32, 12_288, 256, 81, 27


def uniform(x: Float[Tensor, "b n c"], k: int) -> Reduction:
    """The control that does not look: k frames at equal distances, each in the middle of its part."""
    n = x.shape[1]
    places = ((torch.arange(k, device=x.device) + 0.5) * n / k).long()
    return Reduction.keep(places.expand(len(x), -1), n)


def random(x: Float[Tensor, "b n c"], k: int) -> Reduction:
    """The control of chance: any k frames, by torch's global random numbers."""
    return Reduction.keep(highest(torch.rand(x.shape[:2], device=x.device), k), x.shape[1])


def pooled(x: Float[Tensor, "b n c"], k: int) -> Reduction:
    """The control that drops nothing: means of neighbours, as many in each as can be."""
    n = x.shape[1]
    places = torch.arange(n, device=x.device) * k // n
    return Reduction.merge(places.expand(len(x), -1), k)


class Between(Hourglass):
    """The control without recovery: a frame that was dropped lies on the line between its kept neighbours.

    Before the first and after the last kept frame it is as that one.
    """

    def __init__(self, shape: Shape, frames: int, k: int, *, choose: Callable[[Tensor, int], Reduction] = hot) -> None:
        super().__init__(shape, frames, k, choose=choose)
        self.recovery = None

    def recover(self, z: Float[Tensor, "b k j c"], made: Reduction) -> Float[Tensor, "b t j c"]:
        """All frames of tokens, by their places in time alone."""
        order, rows = made.order.contiguous(), torch.arange(len(z), device=z.device)[:, None]
        time = torch.arange(made.shape[2], device=z.device).repeat(len(z), 1)
        after = torch.searchsorted(order, time)
        low, high = (after - 1).clamp(min=0), after.clamp(max=order.shape[1] - 1)
        left, right = order[rows, low], order[rows, high]
        share = ((time - left) / (right - left).clamp(min=1)).clamp(0, 1)[..., None, None]
        return z[rows, low] * (1 - share) + z[rows, high] * share


def narrow(choose: Callable[[Tensor, int], Reduction]) -> Hourglass:
    """An hourglass of the paper, with another choice of frames."""
    return Hourglass(SHAPE, FRAMES, KEPT, choose=choose)


KINDS: dict[str, Callable[[], nn.Module]] = {
    "full": lambda: Hourglass(SHAPE, FRAMES, None), "hot": lambda: narrow(hot), "uniform": lambda: narrow(uniform),
    "random": lambda: narrow(random), "pooled": lambda: narrow(pooled),
    "hot, between": lambda: Between(SHAPE, FRAMES, KEPT),
    "uniform, between": lambda: Between(SHAPE, FRAMES, KEPT, choose=uniform),
    "shallow": lambda: Hourglass(replace(SHAPE, layers=2), FRAMES, None),
}  # fmt: skip
# Which are trained a second time, by another seed: to see what a seed is worth.
TWICE = ("full", "hot", "uniform", "pooled")


def runs() -> list[tuple[str, str, int]]:
    """Name, kind and seed of each training."""
    return [*((kind, kind, 0) for kind in KINDS), *((f"{kind}, again", kind, 1) for kind in TWICE)]


def build() -> nn.ModuleDict:
    """All of them by name, not trained: 0.4 million parameters each (`shallow` 0.2), 4.7 together."""
    return nn.ModuleDict({name: KINDS[kind]() for name, kind, _ in runs()})


def train(folder: pathlib.Path, options: Options) -> nn.Module:
    """One after another, on the same sequences; a run that was interrupted goes on with the model it was at."""
    plan, device, models = options.apply(PLAN), pick_device(options.device), {}
    count = min(BANK, plan.steps * BATCH)
    drawn = poses.render(count, frames=FRAMES, seed=1, device=device)
    images, truth = drawn.image, drawn.relative

    def loss(model: nn.Module, step: int) -> Tensor:
        rows = torch.randint(count, (BATCH,), device=device)
        return lifting_loss(model(images[rows]).float(), truth[rows])

    for name, kind, seed in runs():
        own = replace(plan, seed=plan.seed + seed)
        torch.manual_seed(own.seed)
        models[name] = fit(KINDS[kind](), loss, own, folder / name.replace(", ", "-"), **options.where())
    return nn.ModuleDict(models)


def errors(models: nn.ModuleDict, names: tuple[str, ...], count: int) -> dict[str, float]:
    """The mean error of a joint in millimetres, on the first held-out sequences, of some models."""
    held, found = poses.render(count, frames=FRAMES, seed=2), {}
    for name in names:
        torch.manual_seed(0)  # for what `random` draws
        said = in_chunks(models[name], held.image, 32)
        found[name] = 1000 * float(mpjpe(said, held.relative))
    return found


def quick(models: nn.ModuleDict) -> dict[str, float]:
    """What is recomputed in seconds."""
    some = errors(models, ("full", "hot", "uniform"), 16)
    return {f"{name}: mm off on 16 sequences": error for name, error in some.items()}


def measure(models: nn.ModuleDict) -> dict[str, float]:
    """The errors of all on the sequences that nothing was learnt from."""
    names = tuple(models)
    return quick(models) | {f"{name}: mm off on {TEST} sequences": e for name, e in errors(models, names, TEST).items()}
