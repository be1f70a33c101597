"""Clips by the number of their objects: what is answered of empty and of crowded ones, through LangDC and its controls.

`measure(folder)` reads the projectors that the league trained, and writes what lessons show as `langdc.json`.
"""

import json
import pathlib
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from minitok import files
from minitok.devices import pick_device
from minitok.house import Options
from minitok.house._answers import in_parts
from minitok.project.langdc import LangDC
from minitok.stages import project
from minitok.stages.reading import Stage
from minitok.stages.telling import rank_correlation

# LangDC, cut at its mean, its words alone; learnt queries and pooled frames with at least as many tokens.
TRIED = (("langdc", 40), ("langdc", 22), ("langdc, words", 40), ("langdc, queries", 22), ("crosslmm, pooled", 32))
CROWDED = 3
NAME = "langdc.json"


def by_clip(correct: Tensor, clip: Int[Tensor, " r"], clips: int) -> Float[Tensor, " clips"]:
    """The share of each clip's answers that are right, in percent; every clip must have one.

    >>> by_clip(torch.tensor([True, False, True]), torch.tensor([0, 0, 1]), 2).tolist()
    [50.0, 100.0]
    """
    right = torch.zeros(clips, device=clip.device).index_add(0, clip, correct.float())
    return 100 * right / clip.bincount(minlength=clips)


def summed(right: Float[Tensor, " n"], objects: Int[Tensor, " n"]) -> dict[str, Any]:
    """Right answers of all clips, of crowded ones, and by number of objects from 1 on."""
    each = [float(right[objects == count].mean()) for count in range(1, int(objects.max()) + 1)]
    return {"right": float(right.mean()), "crowded": float(right[objects >= CROWDED].mean()), "by objects": each}


def gaps(ours: Float[Tensor, " n"], other: Float[Tensor, " n"], objects: Int[Tensor, " n"]) -> dict[str, list[float]]:
    """By how much ours are more often right, and twice the standard error over clips: of all, and of crowded ones."""
    apart = ours - other
    parts = {"all": apart, "crowded": apart[objects >= CROWDED]}
    return {name: [float(part.mean()), 2 * float(part.std() / len(part) ** 0.5)] for name, part in parts.items()}


def counts(method: LangDC, held: Stage) -> Int[Tensor, " n"]:
    """How many tokens each clip gets."""
    return in_parts(lambda x: method.tokens(x)[1].sum(1), held.features, size=100)


def tried(held: Stage, folder: pathlib.Path) -> dict[str, Any]:
    """All figures of LangDC and its controls on held-out clips.

    "cost" is the language model's for one question after the mean number of tokens, with the method's own, as a share
    of the language model's after the host's own tokens.
    """
    clip, objects = held.asked.scene[held.which], held.scenes.present.sum(1)
    found = {"the host itself": held.full}
    made = {(name, k): project.trained(name, k, folder).to(held.features.device) for name, k in TRIED}
    found |= {f"{name}, {k}": held.measure(method, k) for (name, k), method in made.items()}
    right = {name: by_clip(row.correct, clip, len(objects)) for name, row in found.items()}
    told = {f"{name}, {k}": counts(method, held) for (name, k), method in made.items() if isinstance(method, LangDC)}
    tokens = {name: float(told[name].float().mean()) if name in told else row.tokens for name, row in found.items()}
    cost = {name: held.cost(round(k)) / held.cost(held.usual) + found[name].own for name, k in tokens.items()}
    rows = [
        {"method": name, "tokens": tokens[name], "cost": cost[name]} | summed(right[name], objects) for name in found
    ]
    return {
        "clips": len(objects),
        "questions": len(clip),
        "rows": rows,
        "gaps": {name: gaps(right["langdc, 40"], other, objects) for name, other in right.items()},
        "tokens by objects": [float(told["langdc, 40"][objects == count].float().mean()) for count in range(1, 5)],
        "rank correlation": rank_correlation(told["langdc, 40"], objects),
    }


def measure(folder: str | pathlib.Path, options: Options, clips: int = 1000) -> dict[str, Any]:
    """Measures the projectors in `folder` and writes the figures beside them."""
    held = project.stage(clips, "clips", str(pick_device(options.device)))
    facts = tried(held, pathlib.Path(folder))
    files.write(pathlib.Path(folder) / NAME, json.dumps(facts, indent=1) + "\n")
    return facts


def load() -> dict[str, Any]:
    """The figures that the project ships."""
    return json.loads(files.shipped("checkpoints", "projectors", NAME).read_text(encoding="utf-8"))
