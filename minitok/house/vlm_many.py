"""`vlm_many`: the same questions about several pictures at once: a large scene with its crops, or a clip's frames.

A scene of 128x128 comes as a thumbnail and four quarters; small digits can be read in the quarters only. A clip comes
as four or eight frames; a digit shows in two of them. It starts from `vlm`, which can read already, and is a model of
its own: 64 tokens a picture instead of 256 would cost `vlm` details, and lessons on a still picture need no more.
"""

import functools
import math
import pathlib
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from minitok.data import clips, scenes
from minitok.data.asked import RELATIONS
from minitok.data.clips import Clips
from minitok.data.objects import Objects, Scenes
from minitok.data.questions import Questions, ask
from minitok.data.views import render_in_a_quarter, views
from minitok.data.wordings import WORDS
from minitok.house._answers import (
    PARTS,
    TRAINED,
    answer_loss,
    captions_right,
    dense_loss,
    in_parts,
    likeliest,
    mumbled,
    packed,
    right_by_kind,
    shown,
)  # fmt: skip
from minitok.house._common import Options
from minitok.nn import Shape
from minitok.train import Plan, fit, pick_device
from minitok.vlm import ManyVLM

DATA = (
    "rendered scenes of 128x128 with 1 to 9 objects, and clips of 4 and 8 frames, a new one each time; others held out"
)
PLAN = Plan(steps=1400, lr=6e-4, warmup=200, weight_decay=0.05, ema=0.998, save_every=500)
OF_SCENES = (("exists",), ("colour",), ("shape",), ("count",), RELATIONS, ("digit",), ("digit",))
OF_CLIPS = (("exists",), ("colour",), ("shape",), ("count",), ("motion",), ("digit",), ("digit",), ("caption",))
# How many of each a step draws: scenes all over the picture, scenes in a quarter of it, clips of eight and of four.
BATCH = {"scenes": 32, "quarters": 16, "clips of 8": 24, "clips of 4": 16}
POOL = 16  # Examples are drawn for so many steps at once: a GPU draws many in the time of a few.


class Group(NamedTuple):
    """Examples of one shape: p pictures each, the questions, and which object each pixel shows."""

    pictures: Float[Tensor, "b p 3 64 64"]
    asked: Questions
    masks: Tensor
    drawn: Objects

    def part(self, step: int, times: int) -> "Group":
        """The examples of one of `times` steps."""
        size = len(self.pictures) // times
        rows = slice(step * size, (step + 1) * size)
        return Group(self.pictures[rows], self.asked[rows], self.masks[rows], self.drawn[rows])


def build() -> ManyVLM:
    """5.9 million parameters: `vlm` with a wider projector and a vector for what each picture is."""
    return ManyVLM(Shape(width=192, layers=6, heads=3), vocabulary=len(WORDS))


def started() -> ManyVLM:
    """The model with the weights of `vlm`, but for the projector."""
    from minitok import house

    model, state = build(), house.load("vlm").state_dict()
    model.load_state_dict({k: v for k, v in state.items() if "projector" not in k}, strict=False)
    return model


def of_scenes(drawn: Scenes, seed: int, wordings: str = "seen") -> Group:
    """Large scenes as thumbnails and quarters."""
    masks = views(drawn.masks.float()) >= 0.5
    return Group(views(drawn.images), ask(drawn, OF_SCENES, seed=seed, wordings=wordings), masks, drawn)


def of_clips(drawn: Clips, seed: int, wordings: str = "seen") -> Group:
    """Clips as their frames."""
    return Group(drawn.images, ask(drawn, OF_CLIPS, seed=seed, wordings=wordings), drawn.masks, drawn)


def groups(seed: int, device: torch.device, wordings: str = "seen", times: int = 1) -> dict[str, Group]:
    """Fresh examples of all four kinds, `times` as many as a step of training draws."""
    count = {name: times * number for name, number in BATCH.items()}
    large = scenes.render(count["scenes"], size=128, max_objects=9, seed=seed, device=device)
    quarters = render_in_a_quarter(count["quarters"], seed=seed + 1, device=device)
    clip = {t: clips.render(count[f"clips of {t}"], frames=t, seed=seed + t, device=device) for t in (8, 4)}
    both = {"scenes": of_scenes(large, seed, wordings), "quarters": of_scenes(quarters, seed, wordings)}
    return both | {f"clips of {t}": of_clips(clip[t], seed, wordings) for t in (8, 4)}


def labels(group: Group) -> Int[Tensor, "all n 3"]:
    """What the patches of all pictures show; the digit of a clip's object in the frames in which it shows."""
    drawn, p = group.drawn, group.pictures.shape[1]
    shape, colour, glyph = (part.repeat_interleave(p, 0) for part in (drawn.shape, drawn.colour, drawn.glyph))
    if isinstance(drawn, Clips):
        glyph = glyph.where(drawn.shown.flatten(0, 1), -1)
    return shown(group.masks.flatten(0, 1), shape, colour, glyph)


class Training(nn.Module):
    """The model with the layer that asks its patch tokens what they show."""

    def __init__(self, model: ManyVLM) -> None:
        super().__init__()
        self.model, self.dense = model, nn.Linear(model.word.embedding_dim, sum(PARTS))

    def forward(
        self, pictures: list[Tensor], words: list[Int[Tensor, "b t"]], slots: list[Int[Tensor, " t"]]
    ) -> tuple[list[Float[Tensor, "b t v"]], Float[Tensor, "all n parts"]]:
        """Each group's logits of each next word, and what all patches show."""
        features = self.model.see(torch.cat([part.flatten(0, 1) for part in pictures]))
        each = features.split([len(part) * part.shape[1] for part in pictures])
        said = []
        for part, seen, word, slot in zip(pictures, each, words, slots, strict=True):
            visual = self.model.project(seen.unflatten(0, part.shape[:2]).flatten(1, 2))
            said.append(self.model.head(self.model.read(visual, word, slots=slot)))
        return said, self.dense(features)


def train(folder: pathlib.Path, options: Options) -> nn.Module:
    """Cross-entropy of the answers and of what each patch shows, on scenes and clips seen once."""
    device, pooled = pick_device(options.device), functools.lru_cache(maxsize=1)(groups)

    def loss(model: nn.Module, step: int) -> Tensor:
        pool = pooled(pool_seed(step), device, times=POOL)
        made = [group.part(step % POOL, POOL) for group in pool.values()]
        texts = [packed(mumbled(group.asked), captions=isinstance(group.drawn, Clips)) for group in made]
        words, slots, targets = (list(part) for part in zip(*texts, strict=True))
        logits, dense = model([group.pictures for group in made], words, slots)
        parts = zip(logits, made, slots, targets, strict=True)
        answers = [answer_loss(said, group.asked, slot, target) for said, group, slot, target in parts]
        patches = dense_loss(dense, torch.cat([labels(group) for group in made]))
        return torch.stack(answers).mean() + 0.5 * patches

    model = quickly(Training(started()), device)
    trained, plain = fit(model, loss, options.apply(PLAN), folder, **options.where()), build()
    plain.load_state_dict(trained.get_submodule("model").state_dict())
    return plain


def pool_seed(step: int) -> int:
    """The seed of a step's pool, that of its first step, however a run came here: `fit` seeds by a step's number."""
    generator = torch.Generator().manual_seed(torch.initial_seed() - 1009 * (step % POOL))
    return int(torch.randint(TRAINED, 2**39, (), generator=generator))


def quickly(model: Training, device: torch.device) -> Training:
    """On a GPU each block is compiled by itself, once for each shape: all at once would take minutes."""
    if device.type == "cuda":
        for block in (*model.model.vit.body.blocks, *model.model.lm.blocks):
            block.compile(dynamic=False)
    return model


def said(model: ManyVLM, group: Group) -> Float[Tensor, "n q v"]:
    """The logits of all answers of a group."""

    def answers(pictures: Tensor, words: Tensor) -> Tensor:
        return model.several(model.project(model.look(pictures)), words)

    return in_parts(answers, group.pictures, group.asked.words, size=100)


def quick(model: ManyVLM) -> dict[str, float]:
    """The answers' surprise on 8 large scenes: a figure of the card that a test recomputes in seconds."""
    group = of_scenes(scenes.render(8, size=128, max_objects=9, seed=1), seed=1)
    which = group.asked.kind >= 0
    surprise = F.cross_entropy(said(model, group)[which], group.asked.answer[..., 0][which])
    return {"bits an answer on 8 large scenes": float(surprise) / math.log(2)}


def measure(model: ManyVLM, times: int = 64) -> dict[str, float]:
    """Right answers by group and kind on held-out examples, beside the likeliest answers."""
    figures, device = quick(model), pick_device()
    model = model.to(device)
    for wordings in ("seen", "held out"):
        for name, group in groups(10**6, device, wordings, times).items():
            right = right_by_kind(said(model, group), group.asked)
            if isinstance(group.drawn, Clips):
                words, answer = group.asked.words[:, -1], group.asked.answer[:, -1]
                told = in_parts(lambda p, w: model.generate(model.project(model.look(p)), w), group.pictures, words)
                right["caption with the right objects"] = captions_right(told, answer)[0]
            figures |= {f"{name}: {kind}, wording {wordings} (%)": value for kind, value in right.items()}
            likely = likeliest(group.asked) if wordings == "seen" else {}
            figures |= {f"{name}: {kind}, likeliest answer (%)": value for kind, value in likely.items()}
    model.cpu()
    return figures
