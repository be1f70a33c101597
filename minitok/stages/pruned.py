"""What the learned pruners of chapter 6 leave of the answers on 48 held-out scenes, minutes on a CPU, and the controls.

`load()` gives the figures that the project ships, `measure()` computes them.
"""

import json
import pathlib
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from minitok import files
from minitok.reduce import covipal, explain_compress, tome
from minitok.reduce.explain_compress import mean_paid
from minitok.stages import pruners, reduce, reduce_rows
from minitok.stages.controls import LOTS, attended, pooling, radial
from minitok.stages.explained import explained
from minitok.stages.reduce_rows import KINDS, Row
from minitok.stages.reduce_vlm import Stage

NAME = "pruned.json"
RECIPE = "python -c 'from minitok.stages import pruned; pruned.measure()'"
SCENES, COUNTS = 48, (128, 64, 26, 16)
SQUARES = (64, 25, 16, 9)
METHODS: dict[str, Any] = {"lots": LOTS, "radial": radial, "CLS attention": attended, "tome": tome}
# Whose answers are compared with whose, question by question.
PAIRS = {
    "explain_compress": ("lots", "first", "CLS attention", "explain_compress_64"),
    "first": ("lots",),
    "oracle": ("lots", "first", "explain_compress"),
    "explain_compress_64": ("lots", "first"),
    "covipal": (
        "lots",
        "first",
        "oracle",
        "explain_compress",
        "CLS attention",
        "tome",
        "covipal_deaf",
        "covipal_guided",
    ),
    "covipal_guided": ("guide", "first", "covipal"),
}


def learned(folder: str | pathlib.Path | None = None) -> dict[str, Callable[..., Any]]:
    """The trained pruners as methods of the stage."""
    made = {name: pruners.load(name, folder) for name in pruners.TRIALS}
    return {
        name: partial(covipal, module=module) if "covipal" in name else partial(explain_compress, compressor=module)
        for name, module in made.items()
    }


def scored(stage: Stage) -> dict[str, Tensor]:
    """What each question says of the visual tokens: the relevance for its answer; first and last attention."""
    parts: list[tuple[Tensor, Tensor]] = []
    for scene, slot in (rows.unbind(1) for rows in stage.rows.split(16)):
        found, _, _, guide = explained(stage.host, stage.start.visual[scene], stage.asked.words[scene, slot])
        parts.append((found, guide.float().mean(1)))
    oracle, guide = (torch.cat(part) for part in zip(*parts, strict=True))
    first, last = [], []
    for rows in stage.rows.split(32):
        known = stage.start.alone(rows, ("first_attention",)).signals
        first.append(mean_paid(known["first_attention"], known["asked"]))
        last.append(known["first_attention"][:, :, -1].mean(1))
    return {"oracle": oracle, "guide": guide, "first": torch.cat(first), "first, last word": torch.cat(last)}


def rows_of(stage: Stage, k: int, scores: dict[str, Tensor], methods: dict[str, Any]) -> dict[str, Row]:
    """The rows of all methods with k tokens; pooling where a square number is near."""
    found = {name: pruners.chosen(stage, score, k) for name, score in scores.items()}
    found |= {name: stage.measure(method, k) for name, method in methods.items()}
    near = [square for square in SQUARES if abs(square - k) <= 1]
    return found | ({"pooling": stage.measure(pooling, near[0])} if near else {})


def figures(row: Row) -> dict[str, Any]:
    """A row's figures, in percent and bits."""
    facts = {"right": row.even, "per question": row.right, "loyal": row.loyal, "bits": row.moved, "object": row.found}
    facts |= {"FLOPs": 100 * row.flops, "own": 100 * row.own} | {kind: row.kind(kind) for kind in KINDS}
    return {name: round(value, 4) for name, value in facts.items() if value == value}


def measure(
    folder: str | pathlib.Path | None = None, scenes: int = SCENES, counts: tuple[int, ...] = COUNTS
) -> dict[str, Any]:
    """Measures the pruners in a folder, by default the shipped ones, and writes the figures beside them.

    `gaps` are by how many points the first answers more questions rightly than the second, and twice the standard
    error of that over scenes.
    """
    stage = reduce.stage(scenes=scenes, host="vlm")
    scores, methods = scored(stage), METHODS | learned(folder)
    rows, gaps = [], {}
    for k in counts:
        found = rows_of(stage, k, scores, methods)
        rows += [{"method": name, "tokens": row.tokens} | figures(row) for name, row in found.items()]
        for name, others in PAIRS.items():
            for other in others:
                apart, error = reduce_rows.gap(found[name], found[other], of="correct")
                gaps[f"{name} over {other}, {k}"] = [round(0 - 100 * apart, 2), round(100 * error, 2)]
    facts = {"recipe": RECIPE, "scenes": scenes, "questions": len(stage.rows), "all tokens": figures(stage.full)}
    facts |= {"rows": rows, "gaps": gaps}
    files.write(pruners.place(folder) / NAME, json.dumps(facts, indent=1) + "\n")
    return facts


def load(folder: str | pathlib.Path | None = None) -> dict[str, Any]:
    """The figures that the project ships."""
    return json.loads((pruners.place(folder) / NAME).read_text(encoding="utf-8"))
