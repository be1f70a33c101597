"""The stage of chapter 6: trained hosts, what they read, and one call that says what fewer tokens do to their answers.

`stage(images=62).measure(tome, 16)` leaves 16 of 256 tokens after the attention of a ViT's layer 3 and compares what
the network then answers with what it answered with all tokens. `stage(scenes=24, host="vlm").measure(tome, 81)` asks
a vision-language model about scenes: see `reduce_vlm`. Lessons, overview and league all call it: figures compare.
"""

import pathlib
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Literal, overload

from tqdm import tqdm

from minitok.data import clothing
from minitok.house import Options
from minitok.reduce import (
    Reduction,
    divprune,
    falling,
    fastv,
    fopru,
    hiprune,
    pitome,
    todre,
    token_transforming,
    tome,
)
from minitok.stages import answers, reduce_rows, reduce_vit, reduce_vlm
from minitok.stages._common import kept
from minitok.stages.answers import Row
from minitok.stages.controls import LOTS, SIDE, attended, pooling, radial
from minitok.stages.reduce_rows import gap, mean
from minitok.stages.reduce_vit import LAYER, Stage

Method = Callable[..., Reduction]
COUNT = (128, 81, 32, 16, 8)

__all__ = ["LOTS", "METHODS", "Row", "Stage", "attended", "gap", "mean", "pooling", "radial", "stage", "table"]
TITLE = "256 tokens become fewer inside a trained network: which method keeps the answer?"
HOW = (
    "Two hosts, not trained again, in float32. The house's vit on the 372 test photographs: 'once', after the "
    "attention of layer 3 of 0 to 7; 'spread', every layer takes away as many tokens as any other; CLS always stays. "
    "The house's vlm on 96 held-out scenes with some 560 questions: 'before', before the language model reads the "
    "visual tokens; 'inside', after the attention of its layer 1 of 0 to 5; words always stay, and methods that ask "
    "what the words say meet one question a row. Cost is that of the layers for one photograph, or of the language "
    "model's for one question; 'own' is what a method itself computes. 'right' is the mean of nine kinds of question, "
    "'count' and 'digit' are two of them; 'loyal' answers are as with all tokens; 'moved' is how far the answer went, "
    "as a Kullback-Leibler divergence; 'object' is how much of the object asked for lies in kept patches. Random "
    "dropping is the mean of five draws. Controls: pooling, the means of squares of patches; radial, the patches "
    "nearest the middle; attended, those that CLS attends to most in that layer, or in the last of the vlm's ViT."
)
SCORES = {
    "right": "%", "loyal": "%", "moved": "bits", "cost": "billion FLOPs", "own": "billion FLOPs", "count": "%",
    "digit": "%", "object": "%",
}  # fmt: skip
COUNTS = {"once": (192, 128, 64, 32, 16, 8), "spread": (64, 16), "before": COUNT, "inside": COUNT}
SQUARES, SCENES, INSIDE = (81, 64, 16), 96, 1

METHODS: dict[str, Sequence[Method]] = {
    "random_drop": LOTS, "tome": [tome], "fastv": [fastv], "pitome": [pitome],
    "token_transforming": [token_transforming], "divprune": [divprune], "todre": [todre], "fopru": [fopru],
    "hiprune": [hiprune], "pooling": [pooling], "radial": [radial], "attended": [attended],
}  # fmt: skip
# Where a method is measured, if not everywhere: some ask for what only one host or place can tell.
ONLY = {"fastv": ("inside",), "hiprune": ("before", "inside")}
ONLY |= dict.fromkeys(("pooling", "radial"), ("once", "before", "inside"))


@overload
def stage(images: int = 62, *, host: Literal["vit"] = "vit") -> Stage: ...


@overload
def stage(*, scenes: int = 24, host: Literal["vlm"]) -> reduce_vlm.Stage: ...


def stage(images: int = 62, *, scenes: int = 24, host: str = "vit") -> Stage | reduce_vlm.Stage:
    """The stage of a host: `vit` on so many test photographs of clothes, `vlm` on so many held-out scenes.

    Raises `ValueError` for another host.
    """
    if host not in ("vit", "vlm"):
        raise ValueError(f"host={host!r} came, expected 'vit' or 'vlm'")
    return reduce_vit.stage(images) if host == "vit" else reduce_vlm.stage(scenes)


def table(rows: Mapping[str, Row]) -> str:
    """Rows of one host by their names, as text."""
    of_questions = isinstance(next(iter(rows.values())), reduce_rows.Row)
    return (reduce_rows if of_questions else answers).table(rows)  # pyright: ignore[reportArgumentType]


def pieces(where: str) -> list[tuple[str, int]]:
    """The methods of a place, each with its numbers of tokens; pooling takes a square number of squares.

    >>> [k for name, k in pieces("once") if name == "pooling"]
    [64, 16]
    """
    names = [name for name in METHODS if where in ONLY.get(name, COUNTS)]
    return [(name, k) for name in names for k in COUNTS[where] if name != "pooling" or k in SQUARES]


def measure(folder: pathlib.Path, options: Options, every: int = 1) -> list[dict[str, Any]]:
    """The rows of the league; `every` thins out the photographs and the scenes."""
    hosts = {
        "vit": reduce_vit.stage(len(clothing.load("test").images[::every])),
        "vlm": reduce_vlm.stage(-(-SCENES // every)),
    }
    rows: list[dict[str, Any]] = []
    for name, made in hosts.items():
        facts = {"where": f"all tokens, {name}", "method": "none", "tokens": SIDE**2}
        rows.append(facts | kept(folder, f"none-{name}-{every}", lambda made=made: figures(made.full, made.whole)))
    jobs = [(where, name, k) for where in COUNTS for name, k in pieces(where)]
    for where, name, k in tqdm(jobs, disable=not options.progress):
        made = hosts["vit" if where in ("once", "spread") else "vlm"]
        settings: dict[str, Any] = {"layer": {"once": LAYER, "inside": INSIDE}.get(where)}
        if isinstance(made, Stage) and name == "pitome":
            settings["through"] = lambda schedule, _: falling(schedule, 8)
        job = partial(made.measure, METHODS[name], k, **settings)
        found = kept(folder, f"{where}-{name}-{k}-{every}", lambda job=job, made=made: figures(job(), made.whole))
        rows.append({"where": where, "method": name, "tokens": k, **found})
    return rows


def figures(row: Row, whole: float) -> dict[str, float]:
    """A row as the league keeps it; `whole` is the layers' cost with all tokens, in billion FLOPs."""
    names = {"right": row.right, "loyal": row.loyal, "moved": row.moved}
    if isinstance(row, reduce_rows.Row):
        kinds = {"count": row.kind("count"), "digit": row.kind("digit"), "object": row.found}
        names |= {"right": row.even} | {name: value for name, value in kinds.items() if value == value}
    return {**names, "cost": whole * row.flops, "own": whole * row.own}
