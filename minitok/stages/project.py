"""The stage of chapter 7: a frozen ViT and a frozen language model, a projector between them, questions by kind.

`stage(scenes=24).measure(projector, 16)` asks about held-out scenes through 16 tokens and says how many answers are
right, how many are the host's own with all its tokens, and what it costs. Lessons, overview and league all call it.
"""

import functools
import json
import math
import pathlib
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn
from tqdm import tqdm

from minitok import files
from minitok.devices import pick_device
from minitok.house import Options
from minitok.stages import fitting
from minitok.stages._common import kept
from minitok.stages.by_kind import ASKED, Row, table
from minitok.stages.reading import Stage, stage
from minitok.stages.seeing import HOSTS
from minitok.stages.trials import TRIALS

__all__ = ["TRIALS", "Row", "Stage", "stage", "table", "trained"]
TITLE = "Patch tokens become k tokens of the language model: what can it still answer?"
HOW = (
    "Held-out pictures with questions in wordings seen in training: 4,000 scenes of 64x64 (vlm, 256 patches), 1,000 "
    "scenes of 128x128 as thumbnail and crops and 1,000 clips of 8 frames (vlm_many, 256 patches a picture). ViT and "
    "language model are frozen; each projector is trained for 1,200 steps on the same pictures in the same order. "
    "'all kinds' is the mean of right answers over the kinds of question, 'loyal' the share of answers that are the "
    "host's with its own projector, 'cost' the language model's for one question, parameters the projector's. "
    "'own' leaves the vision encoder out for all methods but BUS (which runs it for each question) and PVC (its last "
    "layers once a frame)."
)
SCORES = {
    "all kinds": "%",
    "loyal": "%",
    **dict.fromkeys(ASKED, "%"),
    "cost": "million FLOPs",
    "own": "million FLOPs",
    "parameters": "thousand",
}
PICTURES = {"scenes": 4000, "crops": 1000, "clips": 1000}


def name_of(method: str, k: int) -> str:
    """The name of a trained projector's file.

    >>> name_of("llava, one layer", 256)
    'llava_one_layer-256'
    """
    return f"{method.replace(', ', '_').replace(' ', '_')}-{k}"


def trained(method: str, k: int, folder: str | pathlib.Path | None = None) -> nn.Module:
    """A projector as the league trained it, for the budget k; by default from the files that the project ships.

    Raises `ValueError` for a method or a budget that the league does not train.
    """
    if method not in TRIALS or k not in TRIALS[method].budgets:
        known = {name: trial.budgets for name, trial in TRIALS.items()}
        raise ValueError(f"no projector {method!r} was trained for k={k}; there are {known}")
    path = pathlib.Path(folder) if folder else files.shipped("checkpoints", "projectors")
    k = TRIALS[method].weights(k)
    projector = TRIALS[method].build(k)
    state = load_file(path / f"{name_of(method, k)}.safetensors")
    projector.load_state_dict({key: value.float() for key, value in state.items()})
    return projector.eval().requires_grad_(False)


def figures(row: Row, whole: int) -> dict[str, float]:
    """The scores of a row by their names in the league; `whole` is the language model's cost with all tokens."""
    kinds = {kind: right for kind in ASKED if not math.isnan(right := row.of(kind))}
    spent = {"cost": row.flops * whole / 1e6, "own": row.own * whole / 1e6, "parameters": row.parameters / 1e3}
    return {"all kinds": row.even, "loyal": row.loyal, **kinds, **spent}


def pieces() -> list[tuple[str, int]]:
    """What the league trains: the methods with the budgets of their own modules."""
    return [(name, k) for name, trial in TRIALS.items() for k in sorted({*map(trial.weights, trial.budgets)})]


class League:
    """The league's work in pieces, each kept in `folder` with its weights when it is done."""

    def __init__(self, folder: pathlib.Path, options: Options, thin: int = 1) -> None:
        self.folder, self.options, self.thin = folder, options, thin
        self.device = str(pick_device(options.device))

    @functools.cache  # noqa: B019 - one league a run
    def stage(self, of: str) -> Stage:
        """The held-out pictures of one kind; `thin` leaves out all but one in so many."""
        return stage(PICTURES[of] // self.thin, of, self.device)

    @functools.lru_cache(maxsize=1)  # noqa: B019 - banks are large: one at a time
    def bank(self, of: str) -> fitting.Bank:
        """The pictures that all projectors for one kind are trained on."""
        return fitting.trained_on(self.stage(of).host, of, self.options)

    def train(self, name: str, k: int) -> None:
        """Trains one projector, if it is not there."""
        path = self.folder / "projectors" / f"{name_of(name, k)}.safetensors"
        if not path.exists():
            trial = TRIALS[name]
            torch.manual_seed(self.options.seed)
            made, host = trial.build(k), self.stage(trial.of).host
            held, drawn = self.bank(trial.of), trial.drawn(k)
            done = fitting.train(made, host, held, drawn, self.options, trial.more, trial.compiled)
            fitting.shipped(done, path)

    def row(self, name: str, k: int) -> dict[str, float]:
        """What is answered through a trained projector with k tokens."""
        held = self.stage(TRIALS[name].of)
        projector = trained(name, k, self.folder / "projectors").to(self.device)
        return figures(held.measure(projector, k), held.cost(held.usual))

    def host(self, of: str) -> dict[str, Any]:
        """The row of the host itself."""
        held = self.stage(of)
        return {"pictures": of, "method": "the host itself", "tokens": held.usual} | kept(
            self.folder, f"host-{of}-{self.thin}", lambda: figures(held.full, held.cost(held.usual))
        )


def measure(folder: pathlib.Path, options: Options, thin: int = 1) -> list[dict[str, Any]]:
    """Trains every projector and measures it for each of its budgets; `thin` leaves out held-out pictures."""
    league, steps = League(folder, options, thin), options.apply(fitting.PLAN).steps
    order = sorted(pieces(), key=lambda piece: [*HOSTS].index(TRIALS[piece[0]].of))
    for name, k in tqdm(order, disable=not options.progress):
        league.train(name, k)
    rows = []
    for of in dict.fromkeys(trial.of for trial in TRIALS.values()):
        rows.append(league.host(of))
        for name, trial in TRIALS.items():
            for k in trial.budgets if trial.of == of else ():
                found = kept(folder, f"{name}-{k}-{steps}-{thin}", functools.partial(league.row, name, k))
                rows.append({"pictures": of, "method": name, "tokens": k, **found})
    return rows


def ship(folder: pathlib.Path) -> None:
    """Puts the trained projectors among the project's checkpoints, with one card for all."""
    checkpoints = files.ROOT / "data" / "checkpoints"
    for source in sorted((folder / "projectors").glob("*.safetensors")):
        files.write(checkpoints / "projectors" / source.name, source.read_bytes())
    hashes = {path.stem: files.sha256(path) for path in sorted((checkpoints / "projectors").glob("*.safetensors"))}
    card = {"name": "projectors", "recipe": "minitok league project", "sha256": hashes}
    files.write(checkpoints / "projectors" / "card.json", json.dumps(card, indent=2) + "\n")
