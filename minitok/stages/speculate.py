"""The stage of chapter 5: a large model, who guesses for it, who judges, and one call that says what that saves.

`stage().measure(speculative.accept, k=4)` draws pictures with `image_gpt` and its drafter; `stage().weigh(rule)` adds
up what a judge keeps and what comes out over all codes at twenty places; `texts().write(name, drafter, 24)` goes on
with a text from trees of guesses. Lessons, overview and league all call these, so their figures compare.
"""

import functools
import pathlib
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

from minitok import house
from minitok.house import Options
from minitok.house.vit import cls_features
from minitok.metrics import accuracy, frechet_distance
from minitok.speculate import Accept, TokenRecycling, gsd, lantern, speculative
from minitok.stages import writing
from minitok.stages._common import kept, photograph_features
from minitok.stages.drawing import Stage, stage
from minitok.stages.judged import Cost, Row, level, table
from minitok.stages.judges import by_groups, by_loans, clusters, gullible, lenient, leniently, setting, strangers
from minitok.stages.writing import CONTROLS
from minitok.stages.writing import stage as texts

__all__ = [
    "CONTROLS",
    "Cost",
    "Row",
    "Stage",
    "by_groups",
    "by_loans",
    "clusters",
    "gullible",
    "lenient",
    "leniently",
    "level",
]
__all__ += ["setting", "stage", "strangers", "table", "texts"]

TITLE = "How many calls of a large model do drafts save, and what do kinder judges do to the pictures?"
HOW = (
    "Pictures: image_gpt, 256 codes of ten classes in turn, temperature 1; image_draft guesses k codes a call, or "
    "image_gpt's own last answers do (Jacobi). 'keeps': settings chosen so that a judge keeps so many percent of the "
    "guesses at twenty places of other pictures; 67 is what groups of window 60 keep. Greedy: the likeliest code of "
    "both, ten pictures. Frechet distance of the pictures to 372 test photographs, over the CLS features of the "
    "house's vit; it falls with more pictures. Right: pictures that vit takes for the class asked for. Surprise: bits "
    "a code above what image_gpt expects; 0 for its own pictures but for chance. Text: SmolLM2-135M, greedy, 48 tokens "
    "after each of four passages, two of prose and two of code; exact if it is what plain decoding writes. Time is "
    "that of one processor thread, as a share of plain decoding in the same run."
)
SCORES = {
    "tokens a call": "", "calls": "%", "time": "%",
    "Frechet distance": "", "right": "%", "surprise": "bits", "setting": "", "exact": "", "nodes a call": "",
}  # fmt: skip
PICTURES, TEN, NEW = 50, 10, 48


class Way(NamedTuple):
    """A row of the league: the judge, guesses a call, where they come from, and the setting that was chosen."""

    accept: Accept
    k: int = 4
    guesses: str = "image_draft"
    setting: float | None = None


@functools.cache
def ways() -> dict[str, Way]:
    """The judges of the pictures' rows, by name."""
    made = stage()
    places, vectors, near = made.places, made.vectors, lantern.nearest(made.vectors, 64)
    rules: dict[str, tuple[Callable[[float], Tensor], Callable[[float], Accept]]] = {
        "lenient": (partial(leniently, places), lenient),
        "lantern": (partial(by_loans, places, near), lambda x: partial(lantern.accept, neighbours=near, delta=x)),
    }
    far = strangers(len(vectors))
    rules["random neighbours"] = (
        partial(by_loans, places, far), lambda x: partial(lantern.accept, neighbours=far, delta=x),
    )  # fmt: skip
    found = {
        "plain": Way(speculative.accept, 0),
        "speculative, k = 2": Way(speculative.accept, 2),
        "speculative, k = 4": Way(speculative.accept),
        "Jacobi, k = 8": Way(speculative.accept, 8, "jacobi"),
        "lantern, delta = 0.002": Way(partial(lantern.accept, neighbours=near, delta=0.002)),
        "lantern, delta = 0.1": Way(partial(lantern.accept, neighbours=near, delta=0.1)),
        "random neighbours, delta = 0.1": Way(partial(lantern.accept, neighbours=far, delta=0.1)),
        "lenient, q times 0.5": Way(lenient(0.5)),
        "lenient, q times 0.05": Way(lenient(0.05)),
        "nobody judges": Way(gullible),
        "gsd": Way(partial(gsd.accept, codebook=vectors)),
        "gsd, Jacobi, k = 8": Way(partial(gsd.accept, codebook=vectors), 8, "jacobi"),
        "gsd, window 60, keeps 67 %": Way(partial(gsd.accept, codebook=vectors, window=60)),
    }
    for percent in (67, 90):
        for name, (rule, judge) in rules.items():
            x = setting(lambda x, rule=rule: made.weigh(rule(x)).kept, percent, 1e-5, 1.0)
            found[f"{name}, keeps {percent} %"] = Way(judge(x), setting=x)
    for delta in (0.0, 0.01, 0.1):
        judge = partial(lantern.greedy, neighbours=near, delta=delta)
        found[f"greedy, delta = {delta:g}" if delta else "greedy, exact"] = Way(judge, guesses="likeliest")
    return found


def ten(way: Way, seed: int, n: int) -> dict[str, Any]:
    """One picture of each class: their first n codes, calls and seconds."""
    row = stage().measure(way.accept, way.k, way.guesses, pictures=TEN, seed=seed, n=n)
    return {"codes": row.codes.tolist(), "calls": sum(run.calls for run in row.runs), "seconds": row.seconds}


@torch.no_grad()
def quality(codes: Tensor) -> dict[str, float]:
    """How pictures of class 9, 8, ... in turn are distributed, recognised, and how much they surprise their model."""
    labels, tokenizer = (9 - torch.arange(len(codes))) % TEN, house.load("tokenizer")
    pictures = torch.cat([tokenizer.decode(part[..., None]) for part in codes.split(50)])
    return {
        "Frechet distance": frechet_distance(cls_features(pictures), photograph_features()),
        "right": 100 * accuracy(house.load("vit")(pictures), labels),
        "surprise": float(stage().surprise(codes, labels)[0].mean()),
    }


def pictures(folder: pathlib.Path, options: Options) -> list[dict[str, Any]]:
    """The rows of all judges; `options.steps` shortens the pictures for a rehearsal, which then have no quality."""
    n, rows, seconds = options.steps or 256, [], {}
    made: dict[str, list[dict[str, Any]]] = {name: [] for name in ways()}
    # Round by round, so that a busy minute of the machine meets all rows; greedy pictures would be the same again.
    rounds = range(PICTURES // TEN if n == 256 else 1)
    pieces = [(seed, name) for seed in rounds for name in ways() if not (seed and name.startswith("greedy"))]
    for seed, name in tqdm(pieces, desc="pictures", disable=not options.progress):
        made[name].append(kept(folder, f"{name}-{n}-seed={seed}", partial(ten, ways()[name], seed, n)))
    for name, parts in made.items():
        calls, codes = (
            sum(part["calls"] for part in parts),
            torch.tensor([row for part in parts for row in part["codes"]]),
        )
        seconds[name] = sum(part["seconds"] for part in parts) / len(parts)
        row = {"work": "pictures", "method": name, "tokens a call": codes.numel() / calls}
        row |= {"calls": 100 * calls / codes.numel(), "time": 100 * seconds[name] / seconds["plain"]}
        found = kept(folder, f"{name}-quality-{PICTURES}", partial(quality, codes)) if n == 256 else {}
        chosen = {} if ways()[name].setting is None else {"setting": ways()[name].setting}
        rows.append(row | found | chosen)
    return rows


def text(folder: pathlib.Path, options: Options) -> list[dict[str, Any]]:
    """Token Recycling from three starts, its controls, and plain greedy decoding."""
    n, names = min(NEW, options.steps or NEW), list(writing.PASSAGES)
    left = dict(zip(names, (*names[2:], *names[:2]), strict=True))

    def job(way: str) -> dict[str, Any]:
        made, parts = texts(), []
        for name in names:
            if way == "plain":
                parts.append(made.plain(name, n))
                continue
            drafter: Any = CONTROLS[way](made, name) if way in CONTROLS else TokenRecycling(len(made.model.tokenizer))
            if way == "token_recycling":
                drafter = made.recycling(name)
            elif way == "from another text":
                drafter = made.recycling(left[name])
                made.write(left[name], drafter, n)
            parts.append(made.write(name, drafter, n))
        told = {"codes": [part.run.tokens.tolist() for part in parts], "calls": sum(part.run.calls for part in parts)}
        return told | {"nodes": sum(sum(part.run.drafted) for part in parts), "seconds": sum(p.seconds for p in parts)}

    order = ("plain", "token_recycling", "from nothing", "from another text", *CONTROLS)
    found = {way: kept(folder, f"text-{way}-{n}", partial(job, way)) for way in tqdm(order, desc="text")}
    tokens, plain = n * len(names), found["plain"]
    return [
        {
            "work": "text", "method": way, "tokens a call": tokens / run["calls"], "calls": 100 * run["calls"] / tokens,
            "time": 100 * run["seconds"] / plain["seconds"], "exact": "yes" if run["codes"] == plain["codes"] else "no",
            "nodes a call": run["nodes"] / run["calls"],
        }
        for way, run in found.items()
    ]  # fmt: skip


def measure(folder: pathlib.Path, options: Options) -> list[dict[str, Any]]:
    """Rows of pictures in the order of `ways`, then those of text."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return pictures(folder, options) + text(folder, options)
    finally:
        torch.set_num_threads(threads)
