"""How the projectors of chapter 7 are trained: before a frozen ViT and a frozen language model, all on one bank."""

import copy
import pathlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from safetensors.torch import save_file
from torch import Tensor, nn

from minitok import files
from minitok.data.questions import Questions
from minitok.house import Options
from minitok.house._answers import TRAINED, answer_loss, in_a_word, in_parts, packed
from minitok.stages.seeing import Seen, draw, look, one_by_one, read
from minitok.train import Plan, fit
from minitok.vlm import VLM

PLAN = Plan(steps=1200, lr=1e-3, warmup=100, weight_decay=0.01, ema=0.99, save_every=10_000)
# How many pictures a step reads, and how many a bank holds.
BATCH = {"scenes": 128, "crops": 64, "clips": 48}
SCENES = {"scenes": 40_000, "crops": 16_000, "clips": 12_000}
# How many questions a picture has on average where each needs a row of its own.
APART = 3
Budgets = Callable[[], Sequence[int]]


@dataclass(frozen=True)
class Bank:
    """What is the same for all projectors: pictures with their features and questions, and the answers in one row.

    `where` as in `seeing.Drawn`. Index it like a tensor for some of its pictures.
    """

    features: Float[Tensor, "n patches c"]
    images: Float[Tensor, "n *p 3 H W"]
    where: Int[Tensor, "n patches"]
    asked: Questions
    words: Int[Tensor, "n t"]
    targets: Int[Tensor, "n t"]
    slots: Int[Tensor, " t"]
    of: str = "scenes"

    def __getitem__(self, rows: Tensor) -> "Bank":
        some = {name: getattr(self, name)[rows] for name in ("images", "where", "asked", "words", "targets")}
        return replace(self, features=self.features[rows].float(), **some | {"images": self.images[rows].float()})


More = Callable[[nn.Module, VLM, Bank], Tensor]


def bank(host: VLM, count: int, of: str = "scenes", seed: int = TRAINED) -> Bank:
    """Questions, pictures and their features, in half precision, of what nothing is measured on."""
    device, size = next(host.parameters()).device, 500 if of == "scenes" else 100
    whole: list[Tensor] = []
    questions: list[Questions] = []
    for start in range(0, count, size):
        drawn = draw(of, min(size, count - start), seed + start, device)
        features = in_parts(lambda part: look(host, part), drawn.pictures, size=50)
        found = features.half(), drawn.pictures.half(), drawn.where.to(torch.int8)
        whole = whole or [part.new_empty(count, *part.shape[1:]) for part in found]  # once: twice would fill a GPU
        for into, part in zip(whole, found, strict=True):
            into[start : start + len(part)] = part
        questions.append(drawn.asked)
    asked = Questions(*(torch.cat([getattr(part, name) for part in questions]) for name in vars(questions[0])))
    words, slots, targets = packed(asked, captions=of != "crops")
    kept, pictures, where = whole
    return Bank(kept, pictures, where, asked, words, targets, slots, of)


def together(method: nn.Module, host: VLM, some: Bank, k: int) -> Tensor:
    """The loss of all answers where a picture's tokens are the same for all of its questions."""
    hidden = read(method, Seen(host, some.features, some.images), some.words, k, slots=some.slots)
    return answer_loss(host.head(hidden), some.asked, some.slots, some.targets)


def apart(method: nn.Module, host: VLM, some: Bank, k: int) -> Tensor:
    """The same where the tokens depend on the question: each in a row of its own, a random part, no captions."""
    can = in_a_word(some.asked).nonzero()
    rows, slots = can[torch.randperm(len(can))[: APART * len(some.words)].to(can.device)].unbind(1)
    one = some.asked[rows, slots]
    words, targets = torch.cat([one.words, one.answer[:, :1]], 1), one.answer[:, :2]
    asked = F.pad(one.words > 0, (0, 1))
    hidden = read(method, Seen(host, some.features, some.images)[rows], words, k, asked=asked)[:, -2:]
    row = replace(one, **{name: value[:, None] for name, value in vars(one).items()})
    return answer_loss(host.head(hidden), row, slots.new_zeros(2), targets)


def train(
    projector: nn.Module,
    host: VLM,
    held: Bank,
    budgets: Budgets,
    options: Options,
    more: More | None = None,
    compiled: bool = True,
) -> nn.Module:
    """Trains a projector so that the frozen language model answers rightly; returns it in eval mode.

    `budgets()` says with how many tokens a step is made: one number, a random one, or several whose losses are
    averaged. `more(projector, host, bank)` is a loss of the method's own on the same pictures, added. Every projector
    sees the same pictures in the same order. `compiled` as in `quickly`.
    """
    host = quickly(host.requires_grad_(False), compiled)
    answers = apart if one_by_one(projector) else together

    def loss(model: nn.Module, step: int) -> Tensor:
        some = held[torch.randint(len(held.words), (BATCH[held.of],)).to(held.words.device)]
        value = torch.stack([answers(model, host, some, k) for k in budgets()]).mean()
        return value if more is None else value + more(model, host, some)

    return fit(projector, loss, options.apply(PLAN), **options.where())


def quickly(host: VLM, compiled: bool = True) -> VLM:
    """On a GPU a copy in bfloat16 whose language model is compiled layer by layer; elsewhere the host as it is.

    It is compiled anew for each number of tokens: not worth while where steps have many different ones.
    """
    if not next(host.parameters()).is_cuda:
        return host
    copied = copy.deepcopy(host).bfloat16()
    for block in copied.lm.blocks if compiled else ():
        block.compile(dynamic=False)
    return copied


def trained_on(host: VLM, of: str, options: Options) -> Bank:
    """The bank that the chapter's projectors are trained on, or a small one for a rehearsal."""
    steps = options.apply(PLAN).steps
    return bank(host, min(SCENES[of], steps * BATCH[of]), of)


def shipped(projector: nn.Module, path: pathlib.Path) -> None:
    """Writes a projector's weights in half precision, whole or not at all."""
    state = {key: value.half().contiguous() for key, value in projector.state_dict().items()}
    with files.writing(path) as target:
        save_file(state, target)
