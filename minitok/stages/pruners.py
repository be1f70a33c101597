"""The learned pruners of chapter 6: what they are trained on before the house's `vlm`, how, and the trained ones.

`load("covipal")` gives a module that the project ships; `train()` makes all of them anew, a quarter of an hour on a
CPU. More scenes, steps and questions a step are work for a GPU.
"""

import functools
import json
import math
import pathlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from minitok import files, house
from minitok.devices import pick_device
from minitok.house import Options
from minitok.reduce import Reduction, cost, covipal, explain_compress, highest
from minitok.reduce.covipal import PruningModule, guide_loss, read_softly, retention
from minitok.reduce.explain_compress import Compressor, compressor_loss
from minitok.stages import answers, reduce_rows
from minitok.stages.explained import Bank, bank, explained, positions
from minitok.stages.fitting import shipped
from minitok.stages.reduce_rows import Row
from minitok.stages.reduce_vlm import Stage
from minitok.train import Plan, fit

SCENES, REHEARSAL = 240, 4
# Shares of the tokens that a step of CoViPAL's second stage keeps: one is drawn.
SHARES = (0.5, 0.25, 0.1, 1 / 16)
RECIPE = "python -c 'from minitok.stages import pruners; pruners.train()'"
HELD = "explain_compress_held"
HELD_RECIPE = (
    "python -c 'from minitok.stages import pruners, reduce; pruners.write_held(reduce.stage(scenes=24, host=\"vlm\"))'"
)


class Deaf(PruningModule):
    """CoViPAL's module with silence in place of the words: of equal weight, it hears no question."""

    def forward(self, visual: Tensor, text: Tensor, asked: Tensor) -> Tensor:
        return super().forward(visual, torch.zeros_like(text), asked)


def compress(model: nn.Module, some: Bank) -> Tensor:
    """The compressor's loss on a batch."""
    return compressor_loss(model(some.paid), some.relevance)


def guided(model: nn.Module, some: Bank) -> Tensor:
    """CoViPAL's first stage."""
    return guide_loss(model(some.tokens, some.host.word(some.words), some.asked), some.guide)


def softly(model: nn.Module, some: Bank) -> Tensor:
    """CoViPAL's second stage."""
    host, x, text = some.host, some.tokens, some.host.word(some.words)
    kept = retention(model(x, text, some.asked).float(), SHARES[int(torch.randint(len(SHARES), ()))])
    places = positions(host, x.shape[1], text.shape[1], x.device)
    state = read_softly(host.lm, torch.cat([x, text], 1), places, kept)[:, -1]
    return F.cross_entropy(host.head(state).float(), some.answer)


@dataclass(frozen=True)
class Stretch:
    """A part of a training: a loss, how many questions are drawn in each of how many steps, the learning rate."""

    loss: Callable[[nn.Module, Bank], Tensor]
    batch: int
    steps: int
    lr: float = 1e-3

    def run(self, model: nn.Module, held: Bank, options: Options) -> nn.Module:
        """Trains the model on questions of a bank."""

        def loss(model: nn.Module, step: int) -> Tensor:
            return self.loss(model, held[torch.randint(len(held.words), (self.batch,)).to(held.words.device)])

        plan = options.apply(replace(PLAN, steps=self.steps, lr=self.lr))
        return fit(model, loss, plan, device=options.device, progress=options.progress)


@dataclass(frozen=True)
class Trial:
    """What is trained: a module, in one or several stretches, on questions about side x side tokens."""

    build: Callable[[], nn.Module]
    stretches: Sequence[Stretch]
    side: int = 16


PLAN = Plan(steps=1, warmup=20, weight_decay=0.01, ema=0.97, save_every=10_000)
COMPRESS, GUIDED, SOFTLY = Stretch(compress, 32, 200), Stretch(guided, 128, 250), Stretch(softly, 16, 100, lr=5e-4)
TRIALS = {
    "explain_compress": Trial(Compressor, [COMPRESS]),
    "explain_compress_64": Trial(Compressor, [COMPRESS], side=8),
    "covipal": Trial(lambda: PruningModule(192), [GUIDED, SOFTLY]),
    "covipal_deaf": Trial(lambda: Deaf(192), [GUIDED, SOFTLY]),
    "covipal_guided": Trial(lambda: PruningModule(192), [GUIDED]),
}


def place(folder: str | pathlib.Path | None) -> pathlib.Path:
    """Where the weights lie: in a folder, or where the project ships them."""
    return pathlib.Path(folder) if folder else files.shipped("checkpoints", "reduce")


def load(name: str, folder: str | pathlib.Path | None = None) -> Any:
    """A trained pruner in float32 and eval mode, its weights frozen; by default from the files that the project ships.

    Raises `ValueError` for a name that is not among `TRIALS`.
    """
    if name not in TRIALS:
        raise ValueError(f"no pruner is called {name!r}; there are {', '.join(TRIALS)}")
    made = TRIALS[name].build()
    made.load_state_dict(
        {key: value.float() for key, value in load_file(place(folder) / f"{name}.safetensors").items()}
    )
    return made.eval().requires_grad_(False)


@functools.cache
def ready(name: str) -> Any:
    """The pruner that the project ships, loaded once."""
    return load(name)


def compressed(x: Tensor, k: int, *, first_attention: Tensor, asked: Tensor) -> Reduction:
    """`explain_compress` with its shipped compressor, as a method of the stage."""
    return explain_compress(x, k, first_attention=first_attention, asked=asked, compressor=ready("explain_compress"))


def contextual(x: Tensor, k: int, *, text: Tensor, asked: Tensor) -> Reduction:
    """`covipal` with its shipped module, as a method of the stage."""
    return covipal(x, k, text=text, asked=asked, module=ready("covipal"))


def train(folder: str | pathlib.Path | None = None, options: Options | None = None, names: Sequence[str] = ()) -> None:
    """Trains all of `TRIALS`, or those named, and writes their weights and a line for each into the card."""
    options = options or Options()
    host, banks = house.load("vlm").to(pick_device(options.device)), {}
    place(folder).mkdir(parents=True, exist_ok=True)
    for name in names or TRIALS:
        trial = TRIALS[name]
        if trial.side not in banks:
            banks[trial.side] = bank(host, SCENES if options.steps is None else REHEARSAL, trial.side)
        torch.manual_seed(options.seed)
        made = trial.build()
        for stretch in trial.stretches:
            made = stretch.run(made, banks[trial.side], options)
        shipped(made, place(folder) / f"{name}.safetensors")
        noted(place(folder), name, RECIPE)


def noted(folder: pathlib.Path, name: str, recipe: str) -> None:
    """Writes into the folder's card how a file came about, and its hash."""
    path = folder / "card.json"
    card: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"name": folder.name}
    card.setdefault("recipes", {})[name] = recipe
    card.setdefault("sha256", {})[name] = files.sha256(folder / f"{name}.safetensors")
    files.write(path, json.dumps(card, indent=2) + "\n")


def relevance(stage: Stage, rows: slice = slice(None)) -> Float[Tensor, "r n"]:
    """How relevant each visual token was for the answers to the stage's questions, or to some of them."""
    found = []
    for scene, slot in (part.unbind(1) for part in stage.rows[rows].split(16)):
        found.append(explained(stage.host, stage.start.visual[scene], stage.asked.words[scene, slot])[0])
    return torch.cat(found)


@torch.no_grad()
def chosen(stage: Stage, scores: Float[Tensor, "r n"], k: int, looks: str = "the answer") -> Row:
    """The row where each question keeps its k highest scores before the language model, wherever they are from."""
    (_, n), lm, t, size = scores.shape, stage.host.lm, stage.asked.words.shape[2], 32
    made = Reduction.keep(highest(scores, k), n)
    parts = zip(stage.rows.split(size), made.order.split(size), strict=True)
    said = [stage.start.alone(rows, ()).answers(Reduction.keep(kept, n))[:, 0] for rows, kept in parts]
    share = cost(lm, {}, k, first=t) / cost(lm, {}, n, first=t)
    found = answers.row(torch.cat(said), stage.before, stage.questions.answer[:, 0], share, math.nan)
    return stage.told(found, reduce_rows.held(made, stage.objects, torch.arange(len(scores))), k, looks)


def write_held(stage: Stage, folder: str | pathlib.Path | None = None) -> None:
    """Writes the relevance of a stage's questions, each row divided by its largest, in half precision."""
    found = relevance(stage)
    with files.writing(place(folder) / f"{HELD}.safetensors") as path:
        save_file({"relevance": (found / found.amax(1, keepdim=True)).half()}, path)
    noted(place(folder), HELD, HELD_RECIPE)


def held(folder: str | pathlib.Path | None = None) -> Float[Tensor, "r n"]:
    """The relevance that the project ships: of the questions about the stage's first 24 scenes."""
    return load_file(place(folder) / f"{HELD}.safetensors")["relevance"].float()
