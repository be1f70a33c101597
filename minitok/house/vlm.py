"""`vlm`: answers questions about rendered scenes in words: is it there, colour, shape, count, relation, digit, caption.

Eight questions about each fresh scene are read after its picture at once, none seeing another. The answers alone do
not teach a small model to read a digit in minutes; so a linear layer, thrown away afterwards, also asks each patch
token which shape, colour and digit stand there, and CLS learns which shapes and colours the picture holds.
"""

import math
import pathlib

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from minitok.data import scenes
from minitok.data.objects import Scenes
from minitok.data.questions import KINDS, SLOTS, Questions, ask
from minitok.data.shapes import COLOURS, SHAPES
from minitok.data.wordings import CODES, WORDS
from minitok.house._common import Options
from minitok.nn import Shape
from minitok.train import Plan, fit, pick_device
from minitok.vlm import VLM

DATA = "rendered scenes of 1 to 4 objects, 64x64, a new one each time; 4,000 of other seeds held out"
PLAN = Plan(steps=7000, lr=1e-3, warmup=300, weight_decay=0.05, ema=0.998, save_every=500, compile=True)
BATCH = 384
# A scene's seed in training is above this, and below it where a figure is measured.
TRAINED = 2**31
# Shapes, colours and digits that a patch can show, each with "none" first; digits also with "an object without".
PARTS = (len(SHAPES) + 1, len(COLOURS) + 1, 12)
# A digit weighs twice: it is there in half of the larger objects only.
WEIGHTS = torch.tensor([2.0 if kind == "digit" else 1.0 for kind in KINDS])


def build() -> VLM:
    """5.7 million parameters, half of them in the ViT, half in the language model."""
    return VLM(Shape(width=192, layers=6, heads=3), vocabulary=len(WORDS))


def patch_labels(drawn: Scenes) -> Int[Tensor, "b 256 3"]:
    """Shape, colour and digit at the middle of each patch, as `PARTS` counts them."""
    masks = drawn.masks[:, :, 2::4, 2::4].flatten(2)
    slot, there = masks.byte().argmax(1), masks.any(1)
    parts = (drawn.shape.gather(1, slot) + 1, drawn.colour.gather(1, slot) + 1, drawn.glyph.gather(1, slot) + 2)
    return torch.stack(parts, 2) * there[:, :, None]


def picture_labels(drawn: Scenes) -> Float[Tensor, "b 16"]:
    """Which of the eight shapes and the eight colours a scene holds."""
    kinds = [F.one_hot(part + 1, 9)[..., 1:].amax(1) for part in (drawn.shape, drawn.colour)]
    return torch.cat(kinds, 1).float()


def packed(asked: Questions) -> tuple[Tensor, Tensor, Tensor]:
    """The words of all slots in one row with the answers that they are taught, their slot numbers, and the targets.

    A target is the next word at the places from a question's last on, -100 elsewhere; all slots but the last teach a
    word and a full stop, the last one, the caption, as many words as it has. The row is filled up at its end to a
    number of words that 64 divides, which GPUs like.
    """
    words, slots, targets = [], [], []
    for i in range(asked.words.shape[1]):
        answer = asked.answer[:, i] if i == asked.words.shape[1] - 1 else asked.answer[:, i, :2]
        row = torch.cat([asked.words[:, i], answer[:, :-1]], 1)
        target = torch.cat([torch.full_like(asked.words[:, i, 1:], -100), answer], 1)
        words.append(row)
        targets.append(target.masked_fill((asked.kind[:, i, None] < 0) | (target == 0), -100))
        slots += [i] * row.shape[1]
    more = -len(slots) % 64
    slots = torch.tensor(slots + [slots[-1]] * more, device=row.device)
    return F.pad(torch.cat(words, 1), (0, more)), slots, F.pad(torch.cat(targets, 1), (0, more), value=-100)


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


def answer_loss(logits: Float[Tensor, "b t v"], targets: Int[Tensor, "b t"], weight: Float[Tensor, "b t"]) -> Tensor:
    """The weighed mean of the next words' cross-entropy."""
    each = F.cross_entropy(logits.float().flatten(0, 1), targets.flatten(), ignore_index=-100, reduction="none")
    weight = weight * (targets >= 0)
    return (each.view_as(weight) * weight).sum() / weight.sum()


def weights(asked: Questions, slots: Int[Tensor, " t"], targets: Int[Tensor, "b t"]) -> Float[Tensor, "b t"]:
    """What each target weighs: its kind's weight, shared out among the words of the answer."""
    kind = WEIGHTS.to(slots.device)[asked.kind.clamp(min=0)]  # b q
    taught = (slots[:, None] == torch.arange(kind.shape[1], device=slots.device)).float()  # t q
    words = ((targets >= 0).float() @ taught).clamp(min=1)  # b q
    return (kind / words) @ taught.T


def train(folder: pathlib.Path, options: Options) -> nn.Module:
    """Cross-entropy of the answers, of what each patch shows and of what the picture holds, on scenes seen once."""
    device = pick_device(options.device)

    def loss(model: nn.Module, step: int) -> Tensor:
        seed = int(torch.randint(TRAINED, 2**39, ()))
        drawn = scenes.render(BATCH, seed=seed, device=device)
        asked = ask(drawn, SLOTS, seed=seed)
        words, slots, targets = packed(asked)
        logits, dense, picture = model(drawn.images, words, slots)
        parts = zip(dense.float().split(PARTS, -1), patch_labels(drawn).unbind(-1), strict=True)
        shown = sum(F.cross_entropy(part.flatten(0, 1), label.flatten()) for part, label in parts)
        held = F.binary_cross_entropy_with_logits(picture.float(), picture_labels(drawn))
        return answer_loss(logits, targets, weights(asked, slots, targets)) + 0.5 * shown + 0.25 * held

    trained = fit(Training(build()), loss, options.apply(PLAN), folder, **options.where())
    return trained.get_submodule("model")


@torch.no_grad()
def answers(model: VLM, drawn: Scenes, asked: Questions, size: int = 250) -> Float[Tensor, "n q v"]:
    """The logits of all slots' answers, so many scenes at a time."""
    parts = zip(drawn.images.split(size), asked.words.split(size), strict=True)
    return torch.cat([model.several(model.project(model.see(images)), words) for images, words in parts])


def right_by_kind(logits: Float[Tensor, "n q v"], asked: Questions) -> dict[str, float]:
    """The share of right answers to each kind of question, captions left out, in percent."""
    right, figures = logits.argmax(-1) == asked.answer[..., 0], {}
    for i, kind in enumerate(KINDS[:-1]):
        if (which := asked.kind == i).any():
            figures[kind] = 100 * float(right[which].float().mean())
    return figures


def likeliest(asked: Questions) -> dict[str, float]:
    """How often the answer most often right is right, by kind: what one gets without looking, in percent."""
    first = {kind: asked.answer[..., 0][asked.kind == i] for i, kind in enumerate(KINDS[:-1])}
    return {kind: 100 * float(words.bincount().max()) / len(words) for kind, words in first.items() if len(words)}


@torch.no_grad()
def captions_right(model: VLM, drawn: Scenes, asked: Questions, size: int = 250) -> tuple[float, float]:
    """Captions that name the very objects of the scene, in any order, and those right word for word, in percent."""
    words, target = asked.words[:, -1], asked.answer[:, -1]
    parts = zip(drawn.images.split(size), words.split(size), strict=True)
    said = torch.cat([model.generate(model.project(model.see(images)), w) for images, w in parts])
    said = said.masked_fill((said == CODES["."]).cumsum(1) - (said == CODES["."]).int() > 0, 0)
    same = [a == b for a, b in zip(map(named, said), map(named, target), strict=True)]
    return 100 * sum(same) / len(same), 100 * float((said == target).all(1).float().mean())


def named(caption: Int[Tensor, " a"]) -> list[tuple[int, ...]]:
    """The objects of a caption as pairs of colour and shape, sorted."""
    return sorted(tuple(group[1:3]) for group in caption.view(-1, 4).tolist() if any(group))


def quick(model: VLM) -> dict[str, float]:
    """The answers' surprise on 24 scenes: a figure of the card that a test recomputes in seconds."""
    drawn = scenes.render(24, seed=1)
    asked = ask(drawn, SLOTS[:-1], seed=1)
    logits, which = answers(model, drawn, asked), asked.kind >= 0
    surprise = F.cross_entropy(logits[which], asked.answer[..., 0][which])
    return {"bits an answer on 24 scenes": float(surprise) / math.log(2)}


def measure(model: VLM, count: int = 4000) -> dict[str, float]:
    """Right answers by kind on held-out scenes, in wordings seen and held out, beside the likeliest answers."""
    figures, device = quick(model), pick_device()
    model, drawn = model.to(device), scenes.render(count, seed=10**6, device=device)
    for wordings in ("seen", "held out"):
        asked = ask(drawn, SLOTS, seed=10**6, wordings=wordings)
        right = right_by_kind(answers(model, drawn, asked[:, :-1]), asked[:, :-1])
        figures |= {f"{kind}, wording {wordings} (%)": value for kind, value in right.items()}
        objects, exact = captions_right(model, drawn, asked)
        figures |= {f"caption with the right objects, wording {wordings} (%)": objects}
        figures |= {f"caption right word for word, wording {wordings} (%)": exact}
        if wordings == "seen":
            figures |= {f"{kind}, likeliest answer (%)": value for kind, value in likeliest(asked).items()}
    model.cpu()
    return figures
