"""The stage of chapter 6: trained hosts, what they read, and one call that says what fewer tokens do to their answers.

`stage(images=62).measure(tome, 16)` leaves 16 of 256 tokens after the attention of a ViT's layer 3 and compares what
the network then answers with what it answered with all tokens. `stage(scenes=24, host="vlm").measure(tome, 81)` asks
a vision-language model about scenes: see `reduce_vlm`; with "crops", "quarters" or "clips" for the host, one that reads
several pictures at once: see `reduce_many`; with "dense", what each patch shows: see `reduce_dense`. Lessons, overview
and league all call it: figures compare.
"""

import math
import pathlib
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Literal, overload

from tqdm import tqdm

from minitok.data import clothing
from minitok.house import Options
from minitok.reduce import (
    Reduction,
    adatoken_3d,
    aim,
    centerclip,
    corematching,
    divprune,
    expedit,
    falling,
    fastv,
    fopru,
    globalcom2,
    hiprune,
    hired,
    pitome,
    recoverable,
    todre,
    token_correlation,
    token_transforming,
    tome,
)
from minitok.stages import answers, dense_rows, pruners, reduce_dense, reduce_many, reduce_rows, reduce_vit, reduce_vlm
from minitok.stages._common import kept
from minitok.stages.answers import Row
from minitok.stages.controls import LOTS, SIDE, attended, evenly, pooling, radial
from minitok.stages.reduce_rows import gap, mean
from minitok.stages.reduce_vit import LAYER, Stage

Method = Callable[..., Reduction]
COUNT = (128, 81, 32, 16, 8)

__all__ = ["LOTS", "METHODS", "Row", "Stage"]
__all__ += ["attended", "evenly", "gap", "mean", "pooling", "radial", "stage", "table"]
TITLE = "256 tokens become fewer inside a trained network: which method keeps the answer?"
HOW = (
    "Four hosts, not trained again, in float32. The house's vit on the 372 test photographs: 'once', after the "
    "attention of layer 3 of 0 to 7; 'spread', every layer takes away as many tokens as any other; CLS always stays. "
    "The house's vlm on 96 held-out scenes with some 560 questions: 'before', before the language model reads the "
    "visual tokens; 'inside', after the attention of its layer 1 of 0 to 5; words always stay, and methods that ask "
    "what the words say meet one question a row. The house's vlm_many on as many: 'crops', 'quarters' and 'clips', "
    "before it reads the 5 x 64 visual tokens of scenes of 128x128 as a thumbnail and four crops, of such whose "
    "objects are all in one quarter, and the 8 x 64 of 8 frames of moving objects, whose ways are not asked for since "
    "it has not learnt them (29 %, chance 22); 'crops inside' and 'clips inside' as before. 'dense': layers 3 to 5 of "
    "the vlm's ViT have fewer tokens, then all are brought back and a linear layer says which shape, colour and digit "
    "each patch of 96 scenes shows; 'right' are patches with all three right, 'mIoU' is the mean overlap of classes; "
    "merged tokens are copied back, dropped ones copy the nearest kept, squares are enlarged bilinearly. Cost is that "
    "of the layers for one picture, or of the language model's for one question; 'own' is what a method itself "
    "computes, the way back with it. 'right' is the mean of the kinds of question, 'count' and 'digit' are two of "
    "them; 'loyal' answers are as with all tokens; 'moved' is how far the answer went, as a Kullback-Leibler "
    "divergence; 'object' is how much of the object asked for, in all pictures that show it, lies in kept patches. "
    "Random dropping is the mean of five draws. Controls: pooling, the means of squares of patches; radial, the "
    "patches nearest the middle, both of each picture; attended, those that CLS attends to most in that layer, or in "
    "the last of the vlm's ViT; evenly, as many of each picture, by its own CLS."
)
SCORES = {
    "right": "%", "loyal": "%", "moved": "bits", "cost": "billion FLOPs", "own": "billion FLOPs", "count": "%",
    "digit": "%", "object": "%", "mIoU": "%",
}  # fmt: skip
OF_CROPS, OF_CLIPS = (160, 80, 64, 32, 20), (128, 64)
COUNTS = {
    "once": (192, 128, 64, 32, 16, 8), "spread": (64, 16), "before": COUNT, "inside": COUNT, "crops": OF_CROPS,
    "quarters": OF_CROPS, "clips": OF_CLIPS, "crops inside": (64,), "clips inside": (64,),
    "dense": (144, 64, 36, 16),
}  # fmt: skip
SCENES, INSIDE = 96, 1
PICTURES = {"crops": 5, "quarters": 5, "clips": 8}
# The host of each place, where it is not called like it, and the layer of one cut inside of a network.
AT = {"once": "vit", "spread": "vit", "before": "vlm", "inside": "vlm"}
AT |= {"crops inside": "crops", "clips inside": "clips"}
CUTS = {"once": LAYER, "inside": INSIDE, "crops inside": INSIDE, "clips inside": INSIDE}

METHODS: dict[str, Sequence[Method]] = {
    "random_drop": LOTS, "tome": [tome], "fastv": [fastv], "pitome": [pitome],
    "token_transforming": [token_transforming], "divprune": [divprune], "todre": [todre], "fopru": [fopru],
    "hiprune": [hiprune], "hired": [hired], "globalcom2": [globalcom2], "pooling": [pooling], "radial": [radial],
    "token_correlation": [partial(token_correlation, seed=seed) for seed in range(3)],
    "attended": [attended], "evenly": [evenly], "expedit": [expedit], "explain_compress": [pruners.compressed],
    "covipal": [pruners.contextual], "recoverable": [recoverable], "aim": [aim], "adatoken_3d": [adatoken_3d],
    "corematching": [corematching], "centerclip": [partial(centerclip, frames=8, segments=8)],
}  # fmt: skip
# Where a method is measured, if not everywhere: some ask for what only one host or place can tell.
ONLY = {"fastv": ("inside", "crops inside", "clips inside"), "hiprune": ("before", "inside"), "expedit": ("dense",)}
ONLY |= dict.fromkeys(("pooling", "radial"), tuple(where for where in COUNTS if where != "spread"))
ONLY |= dict.fromkeys(("hired", "globalcom2", "token_correlation"), ("crops", "quarters", "crops inside"))
ONLY |= dict.fromkeys(("explain_compress", "covipal", "recoverable"), ("before",))
ONLY |= dict.fromkeys(("aim", "adatoken_3d", "corematching"), ("inside",)) | {"centerclip": ("clips",)}
ONLY["evenly"] = tuple(where for where in COUNTS if AT.get(where, where) in PICTURES)
# How all tokens are brought back on the dense host, where not by copies.
BACK = {"expedit": reduce_dense.rebuilt, "pooling": reduce_dense.smooth}
Host = Stage | reduce_vlm.Stage | reduce_dense.Stage


@overload
def stage(images: int = 62, *, host: Literal["vit"] = "vit") -> Stage: ...


@overload
def stage(*, scenes: int = 24, host: Literal["vlm"]) -> reduce_vlm.Stage: ...


@overload
def stage(*, scenes: int = 24, host: Literal["crops", "quarters", "clips"]) -> reduce_many.Stage: ...


@overload
def stage(*, scenes: int = 24, host: Literal["dense"]) -> reduce_dense.Stage: ...


def stage(images: int = 62, *, scenes: int = 24, host: str = "vit") -> Host:
    """The stage of a host: `vit` on so many test photographs of clothes, `vlm` on so many held-out scenes.

    Of `vlm_many` say what it reads: `crops` of large scenes, `quarters`, of those with all objects in a quarter, or
    `clips` of 8 frames; `dense` says what each patch of a scene shows. Raises `ValueError` for another host.
    """
    if host in reduce_many.KINDS:
        return reduce_many.stage(scenes, host)
    makers: dict[str, Callable[[], Host]] = {"vit": lambda: reduce_vit.stage(images)}
    makers |= {"vlm": lambda: reduce_vlm.stage(scenes), "dense": lambda: reduce_dense.stage(scenes)}
    if host not in makers:
        raise ValueError(f"host={host!r} came, expected one of {', '.join((*makers, *reduce_many.KINDS))}")
    return makers[host]()


def table(rows: Mapping[str, Row] | Mapping[str, dense_rows.Row]) -> str:
    """Rows of one host by their names, as text."""
    first = next(iter(rows.values()))
    kinds = ((reduce_rows.Row, reduce_rows), (dense_rows.Row, dense_rows), (Row, answers))
    return next(module for kind, module in kinds if isinstance(first, kind)).table(rows)  # pyright: ignore[reportArgumentType]


def pieces(where: str) -> list[tuple[str, int]]:
    """The methods of a place, each with its numbers of tokens; pooling takes a square number of squares a picture.

    >>> [k for name, k in pieces("once") if name == "pooling"]
    [64, 16]
    """
    pictures = PICTURES.get(AT.get(where, where), 1)
    squares = [k for k in COUNTS[where] if math.isqrt(k // pictures) ** 2 * pictures == k]
    names = [name for name in METHODS if where in ONLY.get(name, COUNTS)]
    return [(name, k) for name in names for k in (squares if name == "pooling" else COUNTS[where])]


def hosts(every: int) -> dict[str, Host]:
    """The stages of all places, each host's once."""
    wanted = dict.fromkeys(AT.get(where, where) for where in COUNTS)
    photographs = len(clothing.load("test").images[::every])
    makers: dict[str, Callable[[], Any]] = {"vit": lambda: reduce_vit.stage(photographs)}
    makers |= {"vlm": lambda: reduce_vlm.stage(-(-SCENES // every))}
    makers |= {"dense": lambda: reduce_dense.stage(-(-SCENES // every))}
    makers |= {of: partial(reduce_many.stage, -(-SCENES // every), of) for of in reduce_many.KINDS}
    return {name: makers[name]() for name in wanted}


def measure(folder: pathlib.Path, options: Options, every: int = 1) -> list[dict[str, Any]]:
    """The rows of the league; `every` thins out the photographs and the scenes."""
    at, rows = hosts(every), []
    for name, made in at.items():
        tokens = made.start.visual.shape[1] if isinstance(made, reduce_vlm.Stage) else SIDE**2
        facts = {"where": f"all tokens, {name}", "method": "none", "tokens": tokens}
        rows.append(facts | kept(folder, f"none-{name}-{every}", lambda made=made: figures(made.full, made.whole)))
    jobs = [(where, name, k) for where in COUNTS for name, k in pieces(where)]
    for where, name, k in tqdm(jobs, disable=not options.progress):
        made = at[AT.get(where, where)]
        dense = {"back": BACK.get(name, reduce_dense.copied)}
        settings: dict[str, Any] = dense if where == "dense" else {"layer": CUTS.get(where)}
        if isinstance(made, Stage) and name == "pitome":
            settings["through"] = lambda schedule, _: falling(schedule, 8)
        job = partial(made.measure, METHODS[name], k, **settings)
        found = kept(folder, f"{where}-{name}-{k}-{every}", lambda job=job, made=made: figures(job(), made.whole))
        rows.append({"where": where, "method": name, "tokens": k, **found})
    return rows


def figures(row: Row | dense_rows.Row, whole: float) -> dict[str, float]:
    """A row as the league keeps it; `whole` is the layers' cost with all tokens, in billion FLOPs."""
    names = {"right": row.right, "loyal": row.loyal}
    names |= {"mIoU": row.miou} if isinstance(row, dense_rows.Row) else {"moved": row.moved}
    if isinstance(row, reduce_rows.Row):
        kinds = {"count": row.kind("count"), "digit": row.kind("digit"), "object": row.found}
        names |= {"right": row.even} | {name: value for name, value in kinds.items() if value == value}
    return {**names, "cost": whole * row.flops, "own": whole * row.own}
