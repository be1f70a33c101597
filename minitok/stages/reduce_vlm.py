"""The second host of chapter 6: a vision-language model, questions about scenes, and fewer visual tokens.

`stage(scenes=24).measure(method, 81)` leaves 81 of the 256 visual tokens before the language model reads them,
`measure(method, 81, layer=1)` after the attention of its second layer, and says what becomes of the answers.
`along({None: 128, 2: 64, 4: 16}, method)` does so at several places in one pass.
"""

import functools
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from minitok import house, metrics
from minitok.data import scenes as pictures
from minitok.data.clips import Clips
from minitok.data.objects import Scenes
from minitok.data.questions import SLOTS, Questions, ask
from minitok.data.wordings import WORDS
from minitok.nn import Layer
from minitok.reduce import Reduction, cost, offered
from minitok.stages import answers, reduce_cuts
from minitok.stages.reduce_cuts import Cut
from minitok.stages.reduce_rows import Row, asked_pixels, held, mean, needs
from minitok.stages.reduce_steps import Method, Schedule, Step, asked_for, halves, reached, steps, walk
from minitok.vlm import VLM

PART = 32  # rows with an attention map each: more would fill the memory
MIDDLE = 2  # the layer of the ViT whose attention is offered as `middle`; its last one is `deep`


@dataclass(frozen=True, eq=False)
class Stage:
    """The host, held-out scenes with their questions, and what is known before the language model."""

    host: VLM
    scenes: Scenes | Clips
    asked: Questions
    start: Cut
    patch = 4  # pixels on each side of what one visual token shows

    @functools.cached_property
    def rows(self) -> Int[Tensor, "r 2"]:
        """Scene and slot of each question that has an answer."""
        return (self.asked.kind >= 0).nonzero()

    @functools.cached_property
    def questions(self) -> Questions:
        """The questions that have an answer."""
        return self.asked[self.asked.kind >= 0]

    @functools.cached_property
    @torch.no_grad()
    def before(self) -> Float[Tensor, "r v"]:
        """The answers' logits with all tokens."""
        n = self.start.visual.shape[1]
        everything = Reduction.keep(torch.arange(n).expand(len(self.start.hidden), -1), n)
        return self.start.answers(everything)[self.rows[:, 0], self.rows[:, 1]]

    @functools.cached_property
    def full(self) -> Row:
        """The row of all tokens."""
        found = answers.row(self.before, self.before, self.questions.answer[:, 0])
        one = torch.where(self.objects.any(1).any(1), 1.0, torch.nan)
        return self.told(found, one, self.start.visual.shape[1], "nothing")

    @functools.cached_property
    def objects(self) -> Tensor:
        """The pixels that show the objects asked for, (r, H, W)."""
        return asked_pixels(self.scenes.masks, self.questions)

    @property
    def whole(self) -> float:
        """FLOPs of the language model for one question with all tokens, in billions."""
        return cost(self.host.lm, {}, self.start.visual.shape[1], first=self.asked.words.shape[2]) / 1e9

    @functools.cache  # noqa: B019 - a stage lives as long as its lesson
    @torch.no_grad()
    def cut(self, layer: int | None = None) -> Cut:
        """What stands and is known at a cut: before the language model, or after the attention of one of its layers."""
        return self.start if layer is None else reduce_cuts.after(self.start, layer)

    def knowing(self, **signals: Tensor) -> "Stage":
        """The same stage where methods may ask for more: signals of the visual tokens, (pictures, ..., n)."""
        return replace(self, start=replace(self.start, signals={**self.start.signals, **signals}))

    def measure(self, method: Method | Sequence[Method], k: int, layer: int | None = None) -> Row:
        """What remains of the answers with k of the visual tokens; several methods, such as draws, give their mean.

        `layer`: None cuts before the language model; a number cuts between the attention and the feed-forward part of
        that layer (0: the first). A method that asks for what differs among the questions of a picture (`ASKING`) meets
        one question a row, any other all at once. Raises `ValueError` as the method does, and for a layer that is not
        there; `TypeError` for a method that asks for what is not known there, such as `paid` before the language model.
        """
        return self.along({layer: k}, method)

    @torch.no_grad()
    def along(
        self,
        schedule: Schedule,
        method: Method | Mapping[int | None, Method] | Sequence[Method],
        weigh: bool = True,
    ) -> Row:
        """The same at several places in one pass: layer i leaves `schedule[i]` visual tokens; None is before them all.

        A mapping gives each place its own method; 0 tokens are left without asking one. What the ViT knew, and what
        `knowing` told, goes along with the tokens; what a layer tells is of those that are left there. The row's
        `tokens` are those at the end. Merged tokens `weigh` in the attention by their sizes, or else count once. Raises
        `ValueError` for places out of order, and for more tokens than are left.
        """
        if not callable(method) and not isinstance(method, Mapping):
            return mean([self.along(schedule, one, weigh) for one in method])
        todo = steps(schedule, method)
        logits, patches = self.answered(todo, weigh)
        recall = torch.full((len(logits),), torch.nan)
        if patches is not None:
            made = Reduction.keep(patches, self.start.visual.shape[1])
            recall = held(made, self.objects, torch.arange(len(logits)), self.patch)
        found = answers.row(logits, self.before, self.questions.answer[:, 0], *self.costs(todo))
        return self.told(found, recall, todo[-1].k, needs([name for step in todo for name in sorted(step.names)]))

    def answered(self, todo: Sequence[Step], weigh: bool = True) -> tuple[Tensor, Tensor | None]:
        """The logits of all answers behind these steps, and which patches are left, (r, k), unless some were merged."""
        together, alone = halves(todo)
        at = walk(replace(self.cut(todo[0].layer), weigh=weigh), together)
        if not alone:
            patches = None if at.patches is None else at.patches[self.rows[:, 0]]
            return at.answers()[self.rows[:, 0], self.rows[:, 1]], patches
        at = reached(at, alone[0].layer)
        names = {name for step in alone for name in step.names}
        ends = [walk(at.alone(part, names), alone) for part in self.rows.split(PART)]
        logits = torch.cat([end.answers()[:, 0] for end in ends])
        patches = [end.patches for end in ends if end.patches is not None]
        return logits, torch.cat(patches) if patches else None

    def told(self, found: answers.Row, recall: Tensor, k: int, looks: str) -> Row:
        """The row of these answers with what is known of their questions."""
        kinds, scene = self.questions.kind, self.questions.scene
        return Row(**vars(found), kinds=kinds, tokens=k, recall=recall, scene=scene, needs=looks)

    def tried(self, method: Method, k: int, at: Cut) -> tuple[Reduction, Tensor]:
        """What a method makes of the visual tokens at a cut, and the logits of the answers then."""
        made = method(at.visual, k, **asked_for(method, at))
        return made, at.answers(made)

    def costs(self, todo: Sequence[Step]) -> tuple[float, float]:
        """FLOPs of the language model for one question, and the methods' own, as shares of those with all tokens."""
        lm, n, t = self.host.lm, self.start.visual.shape[1], self.asked.words.shape[2]
        inside = {step.layer: step.k for step in todo if step.layer is not None}
        first = todo[0].k if todo[0].layer is None else n
        own: list[int] = []

        def look(at: Cut, step: Step) -> None:
            own.append(metrics.flops(step.made, at))

        walk(self.cut(todo[0].layer).alone(self.rows[:1], {name for step in todo for name in step.names}), todo, look)
        whole = cost(lm, {}, n, first=t)
        return cost(lm, inside, first, first=t) / whole, sum(own) / whole

    @torch.no_grad()
    def shown(self, method: Method, k: int, question: int, layer: int | None = None) -> tuple[Reduction, str]:
        """What a method makes of the picture of one question (a number in `questions`), and the answer then."""
        rows, names = self.rows[question : question + 1], inspect.signature(method).parameters
        made, said = self.tried(method, k, self.cut(layer).alone(rows, names))
        return made, WORDS[int(said[0, 0].argmax())]


def looked(host: VLM, images: Float[Tensor, "b 3 H W"]) -> tuple[Tensor, dict[str, Tensor]]:
    """The visual tokens of pictures, and what the ViT knows of them, by the names under which methods ask for it.

    Those of `reduce.offered` in its last layer, and `middle` and `deep`, what all tokens, CLS too, pay to the patches
    in layer `MIDDLE` and in the last.
    """
    found: dict[str, Tensor] = {}

    def look(layer: Layer) -> None:
        if layer.index in (MIDDLE, last):
            found["deep" if layer.index == last else "middle"] = layer.attention[:, :, :, 1:]
        if layer.index == last:
            found.update(offered(layer, asked=("keys", "attention", "cls_attention", "size")))

    last = len(host.vit.body.blocks) - 1
    return host.project(host.see(images, look)), found


@torch.no_grad()
def stage(scenes: int = 24, seed: int = 3 * 10**6) -> Stage:
    """The stage on so many held-out scenes, one question of each kind and two relations to each where it has them."""
    host, drawn = house.load("vlm"), pictures.render(scenes, seed=seed)
    asked, (visual, known) = ask(drawn, SLOTS[:-1], seed=seed), looked(host, drawn.images)
    return Stage(host, drawn, asked, reduce_cuts.before(host, visual, asked.words, known))
