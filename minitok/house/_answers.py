"""What the vision-language models of the house share: rows of questions and answers, losses, and right answers."""

from collections.abc import Callable
from dataclasses import replace

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from minitok.data.asked import RELATIONS
from minitok.data.questions import KINDS, Questions
from minitok.data.shapes import COLOURS, SHAPES
from minitok.data.wordings import CODES, LIGHT, WORDS

# Scenes of training have seeds from here on; where a figure is measured they are below.
TRAINED = 2**31
# Shapes, colours and digits that a patch can show, each with "none" first; digits also with "an object without".
PARTS = (len(SHAPES) + 1, len(COLOURS) + 1, 12)
# A digit weighs twice: only half of the larger objects have one. Relations, learnt last, weigh more too.
WEIGHTS = torch.tensor([{"digit": 2.0, **dict.fromkeys(RELATIONS, 1.5)}.get(kind, 1.0) for kind in KINDS])
SPOKEN = KINDS.index("caption")


def shown(
    masks: Bool[Tensor, "b m H W"], shape: Int[Tensor, "b m"], colour: Int[Tensor, "b m"], glyph: Int[Tensor, "b m"]
) -> Int[Tensor, "b n 3"]:
    """Shape, colour and digit at the middle of each patch of 4 pixels, as `PARTS` counts them."""
    masks = masks[:, :, 2::4, 2::4].flatten(2)
    slot, there = masks.byte().argmax(1), masks.any(1)
    parts = (shape.gather(1, slot) + 1, colour.gather(1, slot) + 1, glyph.gather(1, slot) + 2)
    return torch.stack(parts, 2) * there[:, :, None]


def dense_loss(logits: Float[Tensor, "b n parts"], labels: Int[Tensor, "b n 3"]) -> Tensor:
    """The cross-entropy of what each patch shows, summed over shape, colour and digit."""
    parts = zip(logits.float().split(PARTS, -1), labels.unbind(-1), strict=True)
    return torch.stack([F.cross_entropy(part.flatten(0, 1), label.flatten()) for part, label in parts]).sum()


def packed(asked: Questions, captions: bool = True) -> tuple[Tensor, Tensor, Tensor]:
    """The words of all slots in one row with the answers that they are taught, their slot numbers, and the targets.

    A target is the next word at the places from a question's last on, -100 elsewhere. Slots teach a word and a full
    stop, the last one with `captions` as many words as it has. The row is filled up at its end to a number of words
    that 64 divides, which GPUs like.
    """
    words, slots, targets = [], [], []
    last = asked.words.shape[1] - 1 if captions else -1
    for i in range(asked.words.shape[1]):
        answer = asked.answer[:, i] if i == last else asked.answer[:, i, :2]
        row = torch.cat([asked.words[:, i], answer[:, :-1]], 1)
        target = torch.cat([torch.full_like(asked.words[:, i, 1:], -100), answer], 1)
        words.append(row)
        targets.append(target.masked_fill((asked.kind[:, i, None] < 0) | (target == 0), -100))
        slots += [i] * row.shape[1]
    more = -len(slots) % 64
    slots = torch.tensor(slots + [slots[-1]] * more, device=asked.words.device)
    return F.pad(torch.cat(words, 1), (0, more)), slots, F.pad(torch.cat(targets, 1), (0, more), value=-100)


def in_a_word(asked: Questions) -> Bool[Tensor, "*b"]:
    """Which questions have an answer, and one of a single word: captions have more."""
    return (asked.kind >= 0) & (asked.kind != SPOKEN)


def mumbled(asked: Questions, share: float = 0.1) -> Questions:
    """The same questions with a random share of their `LIGHT` words left out: so that no wording is learnt by heart."""
    light = torch.tensor([word in LIGHT for word in WORDS], device=asked.words.device)
    lost = light[asked.words] & (torch.rand(asked.words.shape, device=asked.words.device) < share)
    return replace(asked, words=asked.words.masked_fill(lost, 0))


def answer_loss(
    logits: Float[Tensor, "b t v"], asked: Questions, slots: Int[Tensor, " t"], targets: Int[Tensor, "b t"]
) -> Tensor:
    """The mean cross-entropy of the answers' words; each answer weighs by its kind, shared out among its words."""
    kind = WEIGHTS.to(slots.device)[asked.kind.clamp(min=0)]  # b q
    mine = (slots[:, None] == torch.arange(kind.shape[1], device=slots.device)).float()  # t q
    taught = (targets >= 0).float()
    weight = (kind / (taught @ mine).clamp(min=1)) @ mine.T * taught
    each = F.cross_entropy(logits.float().flatten(0, 1), targets.flatten(), ignore_index=-100, reduction="none")
    return (each.view_as(weight) * weight).sum() / weight.sum()


@torch.no_grad()
def in_parts(function: Callable[..., Tensor], *tensors: Tensor, size: int = 250) -> Tensor:
    """`function` over rows of several tensors, so many at a time, without gradients."""
    return torch.cat([function(*part) for part in zip(*(t.split(size) for t in tensors), strict=True)])


def right_by_kind(logits: Float[Tensor, "n q v"], asked: Questions) -> dict[str, float]:
    """The share of right answers to each kind of question, captions left out, in percent."""
    right, figures = logits.argmax(-1) == asked.answer[..., 0], {}
    for i, kind in enumerate(KINDS[:SPOKEN]):
        if (which := asked.kind == i).any():
            figures[kind] = 100 * float(right[which].float().mean())
    return figures


def likeliest(asked: Questions) -> dict[str, float]:
    """How often the answer most often right is right, by kind: what one gets without looking, in percent."""
    first = {kind: asked.answer[..., 0][asked.kind == i] for i, kind in enumerate(KINDS[:SPOKEN])}
    return {kind: 100 * float(words.bincount().max()) / len(words) for kind, words in first.items() if len(words)}


def captions_right(said: Int[Tensor, "n a"], answer: Int[Tensor, "n a"]) -> tuple[float, float]:
    """Captions that name the very objects of the scene, in any order, and those right word for word, in percent."""
    stopped = said == CODES["."]
    said = said.masked_fill(stopped.cumsum(1) > stopped.int(), 0)
    same = [a == b for a, b in zip(map(named, said), map(named, answer), strict=True)]
    return 100 * sum(same) / len(same), 100 * float((said == answer).all(1).float().mean())


def named(caption: Int[Tensor, " a"]) -> list[tuple[int, ...]]:
    """The objects of a caption as pairs of colour and shape, sorted."""
    return sorted(tuple(group[1:3]) for group in caption.view(-1, 4).tolist() if any(group))
