"""The stage of chapter 4: one tokenizer, 256 codes a photograph, and one call that tries an order of drawing them.

`stage(images=31).measure(model, draw=20)` says what a generator pays for the codes of held-out photographs, how often
it is called for a picture, and what the pictures that it draws are worth. Lessons, overview and league all make that
call, so their figures compare.
"""

import functools
import pathlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm import tqdm

from minitok import house
from minitok.data import clothing, photographs
from minitok.generate import generate
from minitok.house import Options
from minitok.house._common import in_chunks
from minitok.house.vit import cls_features
from minitok.stages._common import kept
from minitok.stages.neighbours import Neighbours, Unigram
from minitok.stages.orders import ENOUGH, Row, Several, cost, gap, judged, price, slant, table

__all__ = ["Row", "Several", "Stage", "cost", "gap", "stage", "table"]
TITLE = "256 codes a photograph: as many calls as a schedule has groups"
HOW = (
    "Each method draws the codes of 744 photographs, two for each of the 372 test photographs of clothes and of its "
    "class, at temperature 1, twice; the shipped tokenizer decodes them. `Frechet` is the Frechet distance of vit's "
    "CLS features to the test photographs (mean of the two sets), `spread` how far the two are apart, `right` the "
    "share that vit takes for the class asked for, `bits` what a method pays for a code of the test photographs, "
    "`slant` by how much more the codes of two cells that touch at a corner differ if the line through them rises than "
    "if it falls. GFLOP are billions of operations in one picture's matrix products. Seconds are CPU time a picture in "
    "one thread: of one picture alone, and of 32 at once. `unigram` counts how often each code occurs in the 3,068 "
    "training photographs, `neighbours` which follow those above and to the left; both know no class; `real` are "
    "training photographs of the classes asked for, in the place of drawn ones: a generator without fault would stand "
    "there."
)
SCORES = {
    "calls": "", "Frechet": "", "spread": "", "right": "%", "bits": "", "slant": "%", "GFLOP": "", "alone": "s",
    "in 32": "s",
}  # fmt: skip
SETS, BATCH = 2, 124


@dataclass(frozen=True)
class Stage:
    """Held-out photographs with their codes and classes; `measure` tries a generator.

    A generator is a network with a schedule, or a baseline that counts, with `price(codes)` and `draw(b, seed)`.
    """

    images: Float[Tensor, "b 3 64 64"]
    labels: Int[Tensor, "b"]
    codes: Int[Tensor, "b 256"]
    data: str

    @functools.cached_property
    def features(self) -> Tensor | None:
        """What vit sees in the photographs, where they are enough for a Frechet distance."""
        return cls_features(self.images) if len(self.images) >= ENOUGH else None

    @functools.cached_property
    def asked(self) -> Int[Tensor, "b"]:
        """The classes to draw: those of the photographs; where these have none, all ten in turn."""
        return self.labels if int(self.labels.max()) < 10 else torch.arange(len(self.labels)) % 10

    @functools.cached_property
    def counts(self) -> dict[str, Unigram | Neighbours]:
        """The controls that count codes, here in 64 training photographs; the league counts in all of them."""
        there = clothing.at_hand()
        codes = encoded(clothing.load("train").images[::48] if there else photographs.crops(64, 64, seed=1))
        return {"unigram": Unigram(codes), "neighbours": Neighbours(codes)}

    def price(self, method: Any) -> Float[Tensor, "b 256"]:
        """What a generator pays for each code of the photographs, given their classes, in bits."""
        return method.price(self.codes) if hasattr(method, "price") else price(method, self.codes, self.labels)

    def draw(self, method: Any, pictures: int, guidance: float = 1.0, seed: int = 0) -> Int[Tensor, "b 256"]:
        """The codes of so many pictures, of the photographs' classes from the first on."""
        if hasattr(method, "draw"):
            return method.draw(pictures, seed=seed)
        labels = self.asked.repeat(-(-pictures // len(self.asked)))[:pictures]
        return generate(method, labels, guidance=guidance, seed=seed).codes

    def measure(
        self, method: Any, draw: int = 0, guidance: float = 1.0, drawn: Sequence[Int[Tensor, "m 256"]] = ()
    ) -> Row:
        """What a generator pays, how often it is called, and what `draw` of its pictures, or those `drawn`, are worth.

        Guided logits are no probabilities of what is to come, so with guidance there is no price.
        """
        drawn = [self.draw(method, draw, guidance)] if draw else list(drawn)
        calls = len(method.schedule) if hasattr(method, "schedule") else 256
        asked = None if hasattr(method, "draw") else self.asked
        return Row(
            calls,
            self.price(method) if guidance == 1 else None,
            slant(torch.cat(drawn)) if drawn else None,
            **judged([painted(codes) for codes in drawn], asked, self.features),
        )


def painted(codes: Int[Tensor, "b 256"]) -> Float[Tensor, "b 3 64 64"]:
    """What the house's tokenizer paints of codes."""
    return in_chunks(house.load("tokenizer").decode, codes[..., None])


def encoded(images: Float[Tensor, "b 3 64 64"]) -> Int[Tensor, "b 256"]:
    """The codes of photographs."""
    return in_chunks(house.load("tokenizer").encode, images)[..., 0]


def stage(images: int = 31) -> Stage:
    """The stage on so many test photographs of clothes, spread over the test set.

    Where the photographs are not at hand, crops of scikit-image's stand in, of any class (label 10).
    """
    if not clothing.at_hand():
        crops = photographs.crops(images, 64)
        told = f"{images} crops of scikit-image's photographs"
        return Stage(crops, torch.full((images,), 10), encoded(crops), told)
    test = clothing.load("test")
    rows = torch.arange(images) * len(test.images) // images
    told = f"{images} of 372 clothing photographs (test set)"
    return Stage(test.images[rows], test.labels[rows], encoded(test.images[rows]), told)


def methods() -> dict[str, tuple[Any, float]]:
    """The generators with their guidance; those of the registry begin with their slug."""
    raster, nar = house.load("image_gpt"), house.load("nar")
    return {
        "raster": (raster, 1.0),
        "raster, guidance 1.5": (raster, 1.5),
        "raster, 8 codes a call": (Several(raster, 8), 1.0),
        "nar": (nar, 1.0),
        "nar, guidance 1.5": (nar, 1.5),
    }


def drawn(folder: pathlib.Path, name: str, model: Any, guidance: float, labels: Tensor) -> list[Tensor]:
    """Sets of codes of the classes asked for, each from other seeds; kept batch by batch."""

    def batch(part: Tensor, seed: int) -> Tensor:
        def job() -> list[list[int]]:
            return generate(model, part, guidance=guidance, seed=seed).codes.tolist()

        return torch.tensor(kept(folder, f"{name}-{len(labels)}-{seed}", job))

    return [torch.cat([batch(part, 1000 * s + i) for i, part in enumerate(labels.split(BATCH))]) for s in range(SETS)]


def of_classes(there: Int[Tensor, "n"], asked: Int[Tensor, "b"], seed: int) -> Int[Tensor, "k"]:
    """Which of the photographs with labels `there` to take, at random, for as many of each class as are asked for.

    >>> of_classes(torch.tensor([0, 1, 2]), torch.tensor([2, 0]), seed=0).tolist()
    [0, 2]

    None is taken twice; a class that has too few gives all of them.
    """
    order = torch.randperm(len(there), generator=torch.Generator().manual_seed(seed))
    return torch.cat([order[there[order] == c][: int((asked == c).sum())] for c in asked.unique()])


def controls(made: Stage, learnt: Int[Tensor, "n 256"], labels: Int[Tensor, "b"]) -> list[dict[str, Any]]:
    """The rows of what counts codes, and of real photographs in the place of drawn ones."""
    rows = []
    for name, counts in (("unigram", Unigram(learnt)), ("neighbours", Neighbours(learnt))):
        sets = [counts.draw(len(labels), seed=s) for s in range(SETS)]
        rows.append({"method": name, **made.measure(counts, drawn=sets).scores})
        del rows[-1]["calls"]
    train = clothing.load("train")
    chosen = [of_classes(train.labels, labels, seed=s) for s in range(SETS)]
    found = judged([train.images[part] for part in chosen], None, made.features)
    return [*rows, {"method": "real", **found, "slant": slant(torch.cat([learnt[part] for part in chosen]))}]


def measure(folder: pathlib.Path, options: Options) -> list[dict[str, Any]]:
    """All rows, computed on the CPU, nearest to the test photographs first.

    `options.steps` is how many pictures a set has, for a rehearsal.
    """
    made = stage(len(clothing.load("test").images))
    labels, rows = made.labels.repeat(2)[: options.steps], []
    for name, (model, guidance) in tqdm(methods().items(), disable=not options.progress):
        sets = drawn(folder, name, model, guidance, labels)
        paid = kept(folder, f"{name}-cost", functools.partial(cost, model, guidance))
        rows.append({"method": name, **made.measure(model, guidance=guidance, drawn=sets).scores, **paid})
    learnt = kept(folder, "codes-train", lambda: encoded(clothing.load("train").images).tolist())
    return sorted(rows + controls(made, torch.tensor(learnt), labels), key=lambda found: found["Frechet"])
