"""The league of chapter 2: photographs from the first tokens of a sequence, from one of them to all 64."""

import functools
import pathlib
from typing import Any

import torch
from tqdm import tqdm

from minitok import house
from minitok.data import clothing
from minitok.house import Options
from minitok.house._one_d import lengths, linear_code, principal_components, rebuilt, through_thumbnails
from minitok.house.flextok import GUIDANCE
from minitok.stages._common import cpu_seconds, kept

__all__ = ["linear_code", "principal_components", "rebuilt", "through_thumbnails"]  # the rivals of the lessons

TITLE = "What is left of a photograph from the first k of 64 tokens"
HOW = (
    "All 372 test photographs of clothes, 64 x 64; a token is 12 bits. PSNR, SSIM and Frechet distance (of vit's CLS "
    "features) stand in the models' cards, measured by one function for all. Principal components are those of the "
    "3,068 training photographs, in as many bits; `thumbnails` are 8 x 8 codes of the 2D tokenizer for a photograph "
    "made smaller; WebP files have as many bytes. `flextok` draws in 20 steps, one picture for each photograph. "
    "Decoding is CPU time a picture, of eight at once in one thread."
)
SCORES = {"PSNR": "dB", "SSIM": "", "Frechet": "", "decoding": "ms"}
FIGURES = {"PSNR": "PSNR from {} (dB)", "SSIM": "SSIM from {}", "Frechet": "Frechet distance from {}"}
# Whose card has the figures, of what, and what follows their names there.
SOURCES = {
    "titok": ("titok", "{k} tokens", ""),
    "one_d_piece": ("one_d_piece", "{k} tokens", ""),
    "flextok": ("flextok", "{k} tokens", ""),
    "flextok, guidance 2": ("flextok", "{k} tokens", " with guidance"),
    "principal components": ("one_d_piece", "principal components in the bits of {k} tokens", ""),
}
# The settings of those that are timed.
DECODERS = {"titok": {}, "one_d_piece": {}, "flextok": {}, "flextok, guidance 2": {"guidance": GUIDANCE}}
WHOLE = {"thumbnails": ("titok", "8x8 codes of thumbnails", ""), "WebP": ("titok", "WEBP", "")}


def figures(source: tuple[str, str, str], k: int) -> dict[str, float]:
    """What a card says of pictures from k tokens."""
    name, what, end = source
    card = house.card(name)["figures"]
    return {score: card[form.format(what.format(k=k)) + end] for score, form in FIGURES.items()}


@torch.no_grad()
def milliseconds(name: str, k: int, **settings: float | int) -> float:
    """CPU time in which a model paints one of eight pictures from k tokens: the least of three runs."""
    model, images = house.load(name), clothing.load("test").images[:8]
    tokens = model.encode(images)[:k]
    return 1000 * cpu_seconds(lambda _: model.decode(tokens, **settings)) / len(images)


def measure(folder: pathlib.Path, options: Options) -> list[dict[str, Any]]:
    """All rows: for each number of tokens those of all methods, the nearest to the photographs first."""
    rows = []
    for k in tqdm(lengths(64), disable=not options.progress):
        found = []
        for method, source in (SOURCES | (WHOLE if k == 64 else {})).items():
            row = {"tokens": k, "bytes": 1.5 * k, "method": method, **figures(source, k)}
            if method in DECODERS:
                job = functools.partial(milliseconds, source[0], k, **DECODERS[method])
                row["decoding"] = kept(folder, f"{method}-{k}", job)
            found.append(row)
        rows += sorted(found, key=lambda row: -row["PSNR"])
    return rows
