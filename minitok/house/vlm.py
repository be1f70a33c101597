"""`vlm`: answers questions about rendered scenes in words: is it there, colour, shape, count, relation, digit, caption.

Eight questions about each fresh scene are read after its picture at once, none seeing another. The answers alone do
not teach a small model to read a digit in minutes; so a linear layer, thrown away afterwards, also asks each patch
token which shape, colour and digit stand there, and CLS learns which shapes and colours the picture holds. Relations
are learnt last, all at once after thousands of steps; a second stretch from the averaged weights makes them sure.
"""

import math
import pathlib
from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from minitok.data import scenes
from minitok.data.asked import RELATIONS
from minitok.data.objects import Objects
from minitok.data.questions import SLOTS, ask
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
from minitok.vlm import VLM

DATA = "rendered scenes of 1 to 4 objects, 64x64, a new one each time; 4,000 of other seeds held out"
FIRST = Plan(steps=6654, lr=1e-3, warmup=300, weight_decay=0.05, ema=0.998, save_every=500, compile=True)
PLAN = Plan(steps=3436, lr=6e-4, warmup=100, weight_decay=0.05, ema=0.998, save_every=500, compile=True)
BATCH = 384
# What is asked of a scene in training: relations more often, since they are learnt last.
TAUGHT = (("exists",), ("colour", "shape"), ("count",), RELATIONS, RELATIONS, RELATIONS, ("digit",), ("caption",))


def build() -> VLM:
    """5.8 million parameters, half of them in the ViT, half in the language model."""
    return VLM(Shape(width=192, layers=6, heads=3), vocabulary=len(WORDS))


def held(objects: Objects) -> Float[Tensor, "b 16"]:
    """Which of the eight shapes and the eight colours a scene holds."""
    kinds = [F.one_hot(part + 1, 9)[..., 1:].amax(1) for part in (objects.shape, objects.colour)]
    return torch.cat(kinds, 1).float()


class Training(nn.Module):
    """The model with the layer that asks its patch tokens what they show."""

    def __init__(self, model: VLM) -> None:
        super().__init__()
        self.model, self.dense = model, nn.Linear(model.word.embedding_dim, sum(PARTS))

    def forward(
        self, images: Float[Tensor, "b 3 H W"], words: Int[Tensor, "b t"], slots: Int[Tensor, " t"]
    ) -> tuple[Float[Tensor, "b t v"], Float[Tensor, "b n parts"], Float[Tensor, "b labels"]]:
        """Logits of each next word, of what each patch shows, and of what the picture holds."""
        tokens = self.model.vit.tokens(images)
        read = self.model.read(self.model.project(tokens[:, 1:]), words, slots=slots)
        return self.model.head(read), self.dense(tokens[:, 1:]), self.model.vit.head(tokens[:, 0])


def lesson(device: torch.device, stretch: int) -> Callable[[nn.Module, int], Tensor]:
    """The loss on scenes seen once: of the answers, of what each patch shows, of what the picture holds."""

    def loss(model: nn.Module, step: int) -> Tensor:
        seed = int(torch.randint(TRAINED, 2**39, ())) + stretch
        drawn = scenes.render(BATCH, seed=seed, device=device)
        asked = mumbled(ask(drawn, TAUGHT, seed=seed))
        words, slots, targets = packed(asked)
        logits, dense, picture = model(drawn.images, words, slots)
        patches = dense_loss(dense, shown(drawn.masks, drawn.shape, drawn.colour, drawn.glyph))
        whole = F.binary_cross_entropy_with_logits(picture.float(), held(drawn))
        return answer_loss(logits, asked, slots, targets) + 0.5 * patches + 0.25 * whole

    return loss


def train(folder: pathlib.Path, options: Options) -> nn.Module:
    """A long stretch, then a shorter one that goes on from its average."""
    model, device = Training(build()), pick_device(options.device)
    for stretch, plan in enumerate((FIRST, PLAN)):
        fit(model, lesson(device, stretch), options.apply(plan), folder / f"stretch-{stretch}", **options.where())
    return model.model


def quick(model: VLM) -> dict[str, float]:
    """The answers' surprise on 24 scenes: a figure of the card that a test recomputes in seconds."""
    drawn = scenes.render(24, seed=1)
    asked = ask(drawn, SLOTS[:-1], seed=1)
    which = asked.kind >= 0
    with torch.no_grad():
        logits = model.several(model.project(model.see(drawn.images)), asked.words)[which]
    surprise = F.cross_entropy(logits, asked.answer[..., 0][which])
    return {"bits an answer on 24 scenes": float(surprise) / math.log(2)}


def measure(model: VLM, count: int = 4000) -> dict[str, float]:
    """Right answers by kind on held-out scenes, in wordings seen and held out, beside the likeliest answers."""
    figures, device = quick(model), pick_device()
    model, drawn = model.to(device), scenes.render(count, seed=10**6, device=device)
    visual = in_parts(lambda images: model.project(model.see(images)), drawn.images)
    for wordings in ("seen", "held out"):
        asked = ask(drawn, SLOTS, seed=10**6, wordings=wordings)
        right = right_by_kind(in_parts(model.several, visual, asked.words[:, :-1]), asked[:, :-1])
        said = in_parts(model.generate, visual, asked.words[:, -1])
        objects, exact = captions_right(said, asked.answer[:, -1])
        right |= {"caption with the right objects": objects, "caption right word for word": exact}
        figures |= {f"{kind}, wording {wordings} (%)": value for kind, value in right.items()}
    figures |= {f"{kind}, likeliest answer (%)": value for kind, value in likeliest(asked).items()}
    model.cpu()
    return figures
