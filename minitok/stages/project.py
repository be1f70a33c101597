"""The stage of chapter 7: a frozen ViT and a frozen language model, a projector between them, questions by kind.

`stage(scenes=24).measure(projector, 16)` asks about held-out scenes through 16 tokens and says how many answers are
right, how many are the host's own with all 256 tokens, and what it costs. Lessons, overview and league all call it.
"""

import functools
import math
import pathlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from tqdm import tqdm

from minitok import files, house, metrics
from minitok.data import scenes as pictures
from minitok.data.objects import Scenes
from minitok.data.questions import SLOTS, Questions, ask
from minitok.data.wordings import WORDS, encode
from minitok.devices import pick_device
from minitok.house import Options
from minitok.house._answers import in_parts
from minitok.project import LLaVA
from minitok.stages import answers, fitting
from minitok.stages._common import kept
from minitok.stages.by_kind import ASKED, Row, table
from minitok.stages.projectors import Pooling, Resampler, Shuffle
from minitok.vlm import VLM

__all__ = ["METHODS", "Row", "Stage", "stage", "table", "trained"]
TITLE = "256 patch tokens become k tokens of the language model: what can it still answer?"
HOW = (
    "4,000 held-out scenes, about 23,000 questions in wordings seen in training. The house's vlm, its ViT and language "
    "model frozen; each projector is trained for 1,200 steps of 128 scenes and eight questions each, on the same rows "
    "in the same order. 'all kinds' is the mean of right answers over nine kinds of question, 'loyal' the share of "
    "answers that are the host's with its own projector, 'cost' the language model's for one question, parameters the "
    "projector's."
)
SCORES = {
    "all kinds": "%",
    "loyal": "%",
    **dict.fromkeys(ASKED, "%"),
    "cost": "million FLOPs",
    "parameters": "thousand",
}
BUDGETS = (256, 64, 16, 4, 1)
# Each method's budgets, and how it is built for one.
METHODS: dict[str, tuple[tuple[int, ...], Callable[[int], nn.Module]]] = {
    "llava": ((256,), lambda k: LLaVA()),
    "llava, one layer": ((256,), lambda k: LLaVA(depth=1)),
    "pooling": (BUDGETS[1:], Pooling),
    "pixel shuffle": ((64, 16), Shuffle),
    "resampler": (BUDGETS, Resampler),
}


@dataclass(frozen=True)
class Stage:
    """The host, held-out scenes with their questions, and their patches' features; `measure` tries a projector."""

    host: VLM
    scenes: Scenes
    asked: Questions
    features: Float[Tensor, "b 256 c"]

    @functools.cached_property
    def which(self) -> Tensor:
        """The questions that have an answer, (b, q)."""
        return self.asked.kind >= 0

    @functools.cached_property
    def before(self) -> Float[Tensor, "r v"]:
        """The answers' logits with the host's own projector."""
        return self.logits(self.host.projector)

    @functools.cached_property
    def full(self) -> Row:
        """The row of the host's own projector, trained together with the rest."""
        return self.measure(self.host.projector)

    def logits(self, projector: Callable[..., Tensor], *budget: int) -> Float[Tensor, "r v"]:
        """The logits of all answers; the projector is called with the features, and with k where it is given."""

        def answer(x: Tensor, words: Tensor) -> Tensor:
            return self.host.several(projector(x, *budget), words)

        return in_parts(answer, self.features, self.asked.words)[self.which]

    def measure(self, projector: Callable[..., Tensor], k: int | None = None) -> Row:
        """What is answered through a projector, or a function of the features. Raises `ValueError` as it does."""
        budget, one = () if k is None else (k,), self.features[:1]
        with torch.no_grad():
            tokens = projector(one, *budget).shape[1]
        whole, flops = self.cost(256), self.cost(tokens)
        own = metrics.flops(projector, one, *budget) / whole
        logits = self.logits(projector, *budget)
        found = answers.row(logits, self.before, self.asked.answer[..., 0][self.which], flops / whole, own)
        weights = metrics.parameters(projector) if isinstance(projector, nn.Module) else 0
        return Row(**vars(found), kinds=self.asked.kind[self.which], tokens=tokens, parameters=weights)

    @torch.no_grad()
    def says(self, scene: int, question: str, projector: nn.Module | None = None, most: int = 3) -> dict[str, float]:
        """The likeliest answers to a question in words about one scene, with their probabilities.

        Raises `ValueError` for a word that the host does not know.
        """
        visual = (projector or self.host.projector)(self.features[scene : scene + 1])
        shares = self.host.answer_logits(visual, encode([question])).softmax(-1)[0].topk(most)
        return {WORDS[code]: float(share) for share, code in zip(*shares, strict=True)}

    @functools.cache  # noqa: B019 - a stage lives as long as its lesson
    def cost(self, k: int) -> int:
        """FLOPs of the language model for one question after k visual tokens."""
        visual = self.features.new_zeros(1, k, self.host.lm.shape.width)
        return metrics.flops(self.host.answer_logits, visual, self.asked.words[0, :1])


def stage(scenes: int = 24, device: str = "cpu") -> Stage:
    """The stage on so many held-out scenes, one question of each kind and two relations to each where it has them."""
    host = house.load("vlm").to(device)
    drawn = pictures.render(scenes, seed=2 * 10**6, device=device)
    return Stage(host, drawn, ask(drawn, SLOTS[:-1], seed=2 * 10**6), in_parts(host.see, drawn.images))


def name_of(method: str, k: int) -> str:
    """The name of a trained projector's file.

    >>> name_of("llava, one layer", 256)
    'llava_one_layer-256'
    """
    return f"{method.replace(', ', '_').replace(' ', '_')}-{k}"


def trained(method: str, k: int, folder: str | pathlib.Path | None = None) -> nn.Module:
    """A projector as the league trained it, for the budget k; by default from the files that the project ships."""
    path = pathlib.Path(folder) if folder else files.shipped("checkpoints", "projectors")
    state = load_file(path / f"{name_of(method, k)}.safetensors")
    projector = METHODS[method][1](k)
    projector.load_state_dict({key: value.float() for key, value in state.items()})
    return projector.eval().requires_grad_(False)


def figures(row: Row, cost: int) -> dict[str, float]:
    """The scores of a row by their names in the league."""
    kinds = {kind: right for kind in ASKED if not math.isnan(right := row.of(kind))}
    return {"all kinds": row.even, "loyal": row.loyal, **kinds, "cost": cost / 1e6, "parameters": row.parameters / 1e3}


def measure(folder: pathlib.Path, options: Options, scenes: int = 4000) -> list[dict[str, Any]]:
    """Trains every projector for each of its budgets and measures it; each is kept with its weights when it is done."""
    device = str(pick_device(options.device))
    made = stage(scenes, device)
    host = fitting.quickly(house.load("vlm").to(device))
    steps = options.apply(fitting.PLAN).steps
    held = functools.cache(lambda: fitting.bank(host, min(fitting.SCENES, steps * fitting.BATCH)))
    rows: list[dict[str, Any]] = [{"method": "vlm itself", "tokens": 256, **figures(made.full, made.cost(256))}]
    pieces = [(method, k) for k in BUDGETS for method, (budgets, _) in METHODS.items() if k in budgets]
    for method, k in tqdm(pieces, disable=not options.progress):

        def found(method: str = method, k: int = k) -> dict[str, float]:
            torch.manual_seed(options.seed)
            projector = fitting.train(METHODS[method][1](k), host, held(), lambda: (k,), options)
            state = {key: value.half().contiguous() for key, value in projector.state_dict().items()}
            with files.writing(folder / "projectors" / f"{name_of(method, k)}.safetensors") as path:
                save_file(state, path)
            projector = trained(method, k, folder / "projectors").to(device)
            return figures(made.measure(projector, k), made.cost(k))

        rows.append({"method": method, "tokens": k, **kept(folder, f"{method}-{k}-{steps}-{scenes}", found)})
    return rows
