"""The league of chapter 4: one tokenizer, 256 codes a photograph, every order in which they may be drawn."""

import pathlib
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm import tqdm

from minitok import house
from minitok.data import clothing
from minitok.generate._common import Schedule, generate
from minitok.house import Options
from minitok.house._common import in_chunks
from minitok.house.image_gpt import bits_per_code
from minitok.house.vit import cls_features
from minitok.metrics import accuracy, flops, frechet_distance
from minitok.nn import Cache
from minitok.stages._common import cpu_seconds, kept, photograph_features
from minitok.stages.neighbours import Neighbours, levels

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
SETS, BATCH, K = 2, 124, 4096


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


def seconds(model: Any, b: int, guidance: float) -> float:
    """CPU time a picture of a batch, in one thread: the least of three runs."""
    labels = torch.arange(b) % model.classes
    return cpu_seconds(lambda seed: generate(model, labels, guidance=guidance, seed=seed)) / b


def cost(model: Any, guidance: float) -> dict[str, int | float]:
    """What drawing costs, on the CPU."""
    one = torch.zeros(1, dtype=torch.long)
    return {
        "calls": generate(model, one, guidance=guidance).calls,
        "GFLOP": flops(lambda: generate(model, one, guidance=guidance)) / 1e9,
        "alone": seconds(model, 1, guidance),
        "in 32": seconds(model, 32, guidance),
    }


def slant(codes: Int[Tensor, "b 256"]) -> float:
    """By how many percent codes differ more across a rising diagonal than across a falling one, in their levels."""
    here = levels(codes.view(-1, 16, 16)).float()
    rising = (here[:, :-1, 1:] - here[:, 1:, :-1]).abs().mean()
    falling = (here[:, :-1, :-1] - here[:, 1:, 1:]).abs().mean()
    return 100 * float(rising / falling - 1)


def judged(sets: list[Tensor], labels: Tensor | None = None) -> dict[str, float]:
    """What sets of pictures are worth to `vit`: how far from the test photographs they are, and of which class."""
    distances = [frechet_distance(cls_features(pictures), photograph_features()) for pictures in sets]
    found = {"Frechet": sum(distances) / len(sets), "spread": max(distances) - min(distances)}
    if labels is not None:
        found["right"] = 100 * accuracy(in_chunks(house.load("vit"), torch.cat(sets)), labels.repeat(len(sets)))
    return found


def row(name: str, sets: list[Tensor], labels: Tensor | None = None) -> dict[str, Any]:
    """The row of a method that drew these sets of codes, of the classes asked for."""
    decode = house.load("tokenizer").decode
    pictures = [in_chunks(decode, codes[..., None]) for codes in sets]
    return {"method": name, **judged(pictures, labels), "slant": slant(torch.cat(sets))}


def encoded(folder: pathlib.Path, split: str) -> Int[Tensor, "b 256"]:
    """The codes of a split's photographs."""
    encode = house.load("tokenizer").encode
    codes = kept(folder, f"codes-{split}", lambda: in_chunks(encode, clothing.load(split).images)[..., 0].tolist())
    return torch.tensor(codes)


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


def counted(folder: pathlib.Path, labels: Tensor) -> list[dict[str, Any]]:
    """The rows of what counts codes, and of real photographs in the place of drawn ones."""
    learnt, test, n = encoded(folder, "train"), encoded(folder, "test"), len(labels)
    counts = torch.bincount(learnt.flatten(), minlength=K) + 1.0  # none is impossible
    pay = -float((counts / counts.sum()).log2()[test].mean())
    seeds = [torch.Generator().manual_seed(s) for s in range(SETS)]
    alone = [torch.multinomial(counts, 256 * n, True, generator=seed).view(n, 256) for seed in seeds]
    neighbours = Neighbours(learnt)
    around = [neighbours.draw(n, seed=s) for s in range(SETS)]
    train = clothing.load("train")
    rows = [of_classes(train.labels, labels, seed=s) for s in range(SETS)]
    photographs = [train.images[part] for part in rows]
    return [
        {**row("unigram", alone), "bits": pay},
        {**row("neighbours", around), "bits": neighbours.bits(test)},
        {"method": "real", **judged(photographs), "slant": slant(torch.cat([learnt[part] for part in rows]))},
    ]


def measure(folder: pathlib.Path, options: Options) -> list[dict[str, Any]]:
    """All rows, computed on the CPU, nearest to the test photographs first.

    `options.steps` is how many pictures a set has, for a rehearsal.
    """
    test = clothing.load("test")
    labels, codes, rows = test.labels.repeat(2)[: options.steps], encoded(folder, "test"), []
    for name, (model, guidance) in tqdm(methods().items(), disable=not options.progress):
        sets = drawn(folder, name, model, guidance, labels)
        paid = kept(folder, f"{name}-cost", lambda model=model, guidance=guidance: cost(model, guidance))
        rows.append({**row(name, sets, labels), **paid})
        if guidance == 1:
            rows[-1]["bits"] = bits_per_code(model, codes, test.labels)
    return sorted(rows + counted(folder, labels), key=lambda found: found["Frechet"])
