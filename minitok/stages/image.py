"""The stage of chapter 2: held-out photographs, a budget of bits, and one call that says what is left of them.

`stage(images=124).measure(tokenizer, 8)` paints the photographs from the first 8 tokens of each, 96 bits, and compares.
The same call judges the rivals in as many bits. Lessons, overview and league all make it, so their figures compare.
"""

import functools
import pathlib
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm import tqdm

from minitok import house
from minitok.data import clothing, photographs
from minitok.house import Options
from minitok.house._common import in_chunks
from minitok.house._one_d import lengths, rebuilt
from minitok.house.flextok import GUIDANCE
from minitok.house.vit import cls_features
from minitok.stages import rivals
from minitok.stages._common import cpu_seconds, kept
from minitok.stages.pictures import ENOUGH, Row, gap, table

__all__ = ["KS", "Row", "Stage", "gap", "stage", "table"]
TITLE = "What is left of a photograph from the first k of 64 tokens"
HOW = (
    "All 372 test photographs of clothes, 64 x 64; a token is 12 bits. Frechet distance is that of vit's CLS features. "
    "Principal components are those of the 3,068 training photographs, in as many bits; `thumbnails` are 8 x 8 codes "
    "of the 2D tokenizer for a photograph made smaller; WebP files have as many bytes; `plain colour` is the mean, not "
    "counted in bits. `flextok` draws in 20 steps, one picture for each photograph. Decoding is CPU time a picture, of "
    "eight at once in one thread."
)
SCORES = {"PSNR": "dB", "SSIM": "", "edges": "%", "Frechet": "", "decoding": "ms"}
KS, BITS = tuple(lengths(64)), 12
# The tokenizers of the league with the settings of their decoders.
METHODS = {
    "titok": ("titok", {}), "one_d_piece": ("one_d_piece", {}), "flextok": ("flextok", {}),
    "flextok, guidance 2": ("flextok", {"guidance": GUIDANCE}),
}  # fmt: skip


@dataclass(frozen=True)
class Stage:
    """Held-out photographs, and the rivals that meet the same budget; `measure` tries a tokenizer or a rival."""

    images: Float[Tensor, "b 3 64 64"]
    labels: Int[Tensor, "b"]
    data: str

    @functools.cached_property
    def rivals(self) -> dict[str, rivals.Rival]:
        """One plain colour, the best linear code, and, for 64 tokens' bits alone, a grid of as many codes and WebP."""
        learnt = clothing.load("train").images if clothing.at_hand() else photographs.crops(1000, 64, seed=1)
        return {
            "plain colour": rivals.plain,
            "principal components": rivals.principal_components(learnt),
            "thumbnails": rivals.thumbnails,
            "WebP": rivals.webp,
        }

    @functools.cached_property
    def features(self) -> Tensor | None:
        """What vit sees in the photographs, where they are enough for a Frechet distance."""
        return cls_features(self.images) if len(self.images) >= ENOUGH else None

    @functools.cache  # noqa: B019 - a stage lives as long as its lesson
    def codes(self, tokenizer: Any) -> Int[Tensor, "b n g"]:
        """The codes of all photographs."""
        return in_chunks(lambda x: tokenizer.encode(x).codes, self.images)

    def pictures(self, method: Any, k: int, **settings: float | int) -> Float[Tensor, "b 3 64 64"]:
        """What a tokenizer paints of the first k tokens with `settings`, or a rival keeps in as many bits."""
        if hasattr(method, "encode"):
            return rebuilt(method, self.codes(method), k, **settings)
        return method(self.images, k * BITS)

    def measure(self, method: Any, k: int, **settings: float | int) -> Row:
        """How near the pictures from k tokens are to the photographs. Raises `ValueError` as the method does."""
        return Row(self.pictures(method, k, **settings), self.images, self.features)


def stage(images: int = 124) -> Stage:
    """The stage on so many test photographs of clothes, spread over the test set.

    Where the photographs are not at hand, crops of scikit-image's stand in, each of a class of its own.
    """
    if not clothing.at_hand():
        return Stage(
            photographs.crops(images, 64), torch.arange(images), f"{images} crops of scikit-image's photographs"
        )
    test = clothing.load("test")
    rows = torch.arange(images) * len(test.images) // images
    return Stage(test.images[rows], test.labels[rows], f"{images} of 372 clothing photographs (test set)")


@torch.no_grad()
def milliseconds(tokenizer: Any, images: Tensor, k: int, **settings: float | int) -> float:
    """CPU time in which a tokenizer paints one of these pictures from k tokens: the least of three runs."""
    tokens = tokenizer.encode(images)[:k]
    return 1000 * cpu_seconds(lambda _: tokenizer.decode(tokens, **settings)) / len(images)


def measure(folder: pathlib.Path, options: Options, every: int = 1) -> list[dict[str, Any]]:
    """All rows: for each number of tokens those of all methods, the nearest to the photographs first.

    `every` thins out the photographs, for a rehearsal.
    """
    made, rows = stage(len(clothing.load("test").images[::every])), []
    for k in tqdm(KS, disable=not options.progress):
        found = []
        for name in [*METHODS, *([*made.rivals] if k == KS[-1] else ["plain colour", "principal components"])]:
            scores = kept(folder, f"{name}-{k}-{every}", functools.partial(scored, made, name, k))
            found.append({"tokens": k, "bytes": k * BITS / 8, "method": name, **scores})
        rows += sorted(found, key=lambda row: -row["PSNR"])
    return rows


def scored(made: Stage, name: str, k: int) -> dict[str, float]:
    """A row as the league keeps it."""
    if name in made.rivals:
        return figures(made.measure(made.rivals[name], k))
    tokenizer, settings = house.load(METHODS[name][0]), METHODS[name][1]
    taken = milliseconds(tokenizer, made.images[:8], k, **settings)
    return {**figures(made.measure(tokenizer, k, **settings)), "decoding": taken}


def figures(found: Row) -> dict[str, float]:
    """The scores of a row by their names in the league."""
    scores = {"PSNR": found.psnr, "SSIM": found.ssim, "edges": found.edges}
    return scores if found.frechet is None else {**scores, "Frechet": found.frechet}
