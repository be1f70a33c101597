"""What an order of drawing codes costs and gives: the row of chapter 4, and a control that draws in a hurry."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from minitok import house
from minitok.generate import Schedule, generate
from minitok.house._common import in_chunks
from minitok.house.vit import cls_features
from minitok.metrics import accuracy, flops, frechet_distance
from minitok.nn import Cache
from minitok.stages._common import cpu_seconds
from minitok.stages.neighbours import levels
from minitok.tables import aligned

ENOUGH = 300  # photographs, for a Frechet distance of vit's 192 features


@dataclass(frozen=True)
class Row:
    """What a generator costs, pays and draws; None where it was not asked for, or cannot be said.

    `paid` is what each code of held-out photographs cost it, in bits. `right` is the share of drawn pictures that vit
    takes for the class asked for, in percent; `Frechet` the Frechet distance of their CLS features to those of the
    photographs, the mean over sets of pictures, `spread` how far the sets are apart; `slant` as in `slant`.
    """

    calls: int
    paid: Float[Tensor, "b n"] | None = None
    slant: float | None = None
    right: float | None = None
    Frechet: float | None = None
    spread: float | None = None

    @property
    def bits(self) -> float:
        """The mean bits a code. Raises `ValueError` where nothing was paid."""
        if self.paid is None:
            raise ValueError("this row has no price: guided logits are no probabilities")
        return float(self.paid.mean())

    @property
    def scores(self) -> dict[str, float | int]:
        """What is there, by name, as the league keeps it."""
        found = {name: value for name, value in asdict(self).items() if name != "paid" and value is not None}
        return found if self.paid is None else {**found, "bits": self.bits}


class Several:
    """A model of raster order that draws g codes from one call, each by the logits of the first of them."""

    def __init__(self, model: Any, g: int) -> None:
        n = model.schedule.n
        self.model, self.g, self.classes = model, g, model.classes
        self.schedule = Schedule(tuple(tuple(range(k, min(k + g, n))) for k in range(0, n, g)))

    def __call__(self, codes: Int[Tensor, "b n"], labels: Int[Tensor, "b"]) -> Float[Tensor, "b n K"]:
        """The logits of each code: those that the model gives to the first of its group."""
        return self.model(codes, labels)[:, torch.arange(codes.shape[1]) // self.g * self.g]

    def step(self, new: Int[Tensor, "b m"], labels: Int[Tensor, "b"], cache: Cache) -> Float[Tensor, "b g K"]:
        """The logits of the next code, once for each of the group."""
        return self.model.step(new, labels, cache).expand(-1, self.g, -1)


@torch.no_grad()
def price(model: Any, codes: Int[Tensor, "b n"], labels: Int[Tensor, "b"]) -> Float[Tensor, "b n"]:
    """What a network pays for each code, given the class and the groups before: `-log2 p`, 64 pictures at a time."""
    parts = zip(codes.split(64), labels.split(64), strict=True)
    nats = [F.cross_entropy(model(c, y).float().transpose(1, 2), c, reduction="none") for c, y in parts]
    return torch.cat(nats) / torch.log(torch.tensor(2.0))


def cost(model: Any, guidance: float) -> dict[str, int | float]:
    """What drawing costs, on the CPU."""
    one = torch.zeros(1, dtype=torch.long)
    return {
        "GFLOP": flops(lambda: generate(model, one, guidance=guidance)) / 1e9,
        "alone": seconds(model, 1, guidance),
        "in 32": seconds(model, 32, guidance),
    }


def seconds(model: Any, b: int, guidance: float) -> float:
    """CPU time a picture of a batch, in one thread: the least of three runs."""
    labels = torch.arange(b) % model.classes
    return cpu_seconds(lambda seed: generate(model, labels, guidance=guidance, seed=seed)) / b


def slant(codes: Int[Tensor, "b 256"]) -> float:
    """By how many percent codes differ more across a rising diagonal than across a falling one, in their levels."""
    here = levels(codes.view(-1, 16, 16)).float()
    rising = (here[:, :-1, 1:] - here[:, 1:, :-1]).abs().mean()
    falling = (here[:, :-1, :-1] - here[:, 1:, 1:]).abs().mean()
    return 100 * float(rising / falling - 1)


def judged(
    sets: Sequence[Float[Tensor, "m 3 64 64"]], asked: Int[Tensor, "b"] | None, features: Tensor | None
) -> dict[str, float]:
    """What sets of pictures are worth to vit: of which class they are, and how far from photographs of these features.

    The pictures of a set are of the classes `asked`, from the first on, and again.
    """
    found: dict[str, float] = {}
    if sets and features is not None:
        distances = [frechet_distance(cls_features(pictures), features) for pictures in sets]
        found = {"Frechet": sum(distances) / len(sets), "spread": max(distances) - min(distances)}
    if sets and asked is not None:
        labels = torch.cat([asked.repeat(-(-len(part) // len(asked)))[: len(part)] for part in sets])
        found["right"] = 100 * accuracy(in_chunks(house.load("vit"), torch.cat(list(sets))), labels)
    return found


def gap(ours: Row, other: Row) -> tuple[float, float]:
    """By how many bits a code the other pays more than ours, and twice the standard error over photographs."""
    if ours.paid is None or other.paid is None:
        raise ValueError("both rows need a price: measure them without guidance")
    apart = (other.paid - ours.paid).mean(1)
    return float(apart.mean()), 2 * float(apart.std() / len(apart) ** 0.5)


def table(rows: Mapping[str, Row]) -> str:
    """Rows by name, as text; a dash where something was not measured."""
    lines = [("", "calls", "bits a code", "of the class (%)", "Frechet")]
    for name, row in rows.items():
        bits = "-" if row.paid is None else f"{row.bits:.2f}"
        right = "-" if row.right is None else f"{row.right:.0f}"
        lines.append((name, str(row.calls), bits, right, "-" if row.Frechet is None else f"{row.Frechet:.1f}"))
    return aligned(lines)
