"""VisionThink before the house's `vlm_many`: what the thumbnail leaves it with, how its policy is trained and measured.

The host is frozen, so its state after a question about the thumbnail, and how likely it answers rightly in either
round, are all that the policy's training needs. `write()` computes them, minutes on a CPU, and the project ships them.
"""

import json
import pathlib
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from safetensors.torch import load_file, save_file
from torch import Tensor

from minitok import files, house
from minitok.data.questions import KINDS
from minitok.house._answers import TRAINED
from minitok.optimizers import AdamW
from minitok.project.visionthink import Policy, grpo_loss, rewards, rollouts
from minitok.stages import answers
from minitok.stages.seeing import draw, look
from minitok.tables import aligned, shown
from minitok.vlm import ManyVLM

SMALL, LARGE = 64, 320
# Large scenes that the policy is trained on, and those that it is measured on.
SCENES = {"trained": (400, TRAINED + 2**30), "held": (250, 2 * 10**6)}
RECIPE = "python -c 'from minitok.stages import asking; asking.write()'"


@dataclass(frozen=True)
class States:
    """What the first round leaves of n questions, and how both rounds would end; index it like a tensor.

    `hidden` is the language model's state after the question, with the thumbnail alone; `small` and `large` are the
    chances that it says the right word with the thumbnail and with the crops too, `hits` whether its likeliest word is
    right in either, `sure` the chance of its likeliest word with the thumbnail.
    """

    hidden: Float[Tensor, "n d"]
    small: Float[Tensor, "n"]
    large: Float[Tensor, "n"]
    sure: Float[Tensor, "n"]
    hits: Bool[Tensor, "n 2"]
    kind: Int[Tensor, "n"]

    def __len__(self) -> int:
        return len(self.kind)

    def __getitem__(self, rows: Any) -> "States":
        return States(*(getattr(self, field.name)[rows] for field in fields(self)))


@torch.no_grad()
def look_twice(host: ManyVLM, scenes: int, seed: int) -> States:
    """Both rounds of all questions about so many large scenes."""
    parts = []
    for start in range(0, scenes, 10):
        drawn = draw("crops", min(10, scenes - start), seed + start)
        tokens, (b, q, t) = host.project(look(host, drawn.pictures)), drawn.asked.words.shape
        slots, words = torch.arange(q).repeat_interleave(t), drawn.asked.words.flatten(1)
        states = [host.read(tokens[:, :k], words, slots=slots)[:, t - 1 :: t] for k in (SMALL, LARGE)]
        chance = torch.stack([host.head(state).softmax(-1) for state in states], 2)  # b q 2 v
        answer, which = drawn.asked.answer[..., 0], drawn.asked.kind >= 0
        right = chance.gather(-1, answer[..., None, None].expand(b, q, 2, 1))[..., 0]
        hits = chance.argmax(-1) == answer[..., None]
        row = (states[0], right[..., 0], right[..., 1], chance[:, :, 0].amax(-1), hits, drawn.asked.kind)
        parts.append([part[which] for part in row])
    return States(*(torch.cat(part) for part in zip(*parts, strict=True)))


def place(folder: str | pathlib.Path | None) -> pathlib.Path:
    """Where the states lie: in a folder, or where the project ships them."""
    return pathlib.Path(folder) if folder else files.shipped("checkpoints", "asking")


def write(folder: str | pathlib.Path | None = None) -> None:
    """Computes the states of `SCENES`, and writes each as a file, with a card beside them."""
    host, hashes = house.load("vlm_many"), {}
    place(folder).mkdir(parents=True, exist_ok=True)
    for name, (scenes, seed) in SCENES.items():
        made = vars(look_twice(host, scenes, seed))
        with files.writing(place(folder) / f"{name}.safetensors") as path:
            save_file({key: v.half() if v.is_floating_point() else v.byte() for key, v in made.items()}, path)
        hashes[name] = files.sha256(place(folder) / f"{name}.safetensors")
    with files.writing(place(folder) / "card.json") as path:
        card = {"name": "asking", "recipe": RECIPE, "sha256": hashes}
        path.write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")


def load(name: str, folder: str | pathlib.Path | None = None) -> States:
    """The states of `trained` or `held` scenes; by default those that the project ships."""
    state = load_file(place(folder) / f"{name}.safetensors")
    made = {key: value.float() if value.is_floating_point() else value.long() for key, value in state.items()}
    return States(**made | {"hits": made["hits"] > 0})


def train(
    held: States, *, penalty: float = 0.1, least: float = 0.2, steps: int = 200, seed: int = 0, lr: float = 1e-3
) -> tuple[Policy, list[float]]:
    """A policy trained by GRPO: 128 questions a step, 16 rollouts each, in four parts; and the share that asked.

    `penalty` and `least` are those of `rewards`: penalty 0 fines nobody, least 0 always those who ask.
    """
    torch.manual_seed(seed)
    policy, asked = Policy(held.hidden.shape[1]), []
    optimizer = AdamW(policy.parameters(), lr=lr, weight_decay=0.01)
    for _ in range(steps):
        some = held[torch.randint(len(held), (128,))]
        with torch.no_grad():
            old = policy(some.hidden)
            asks, correct = rollouts(old, some.small, some.large)
            worth = rewards(correct, asks, penalty=penalty, least=least)
        asked.append(100 * float(asks.float().mean()))
        for part in torch.arange(len(some)).split(32):
            new, first = policy(some.hidden[part]), torch.zeros(len(part))  # an untrained policy's logits are 0
            loss = grpo_loss(new, old[part], first, asks[part], worth[part])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return policy.eval().requires_grad_(False), asked


@dataclass(frozen=True)
class Outcome:
    """Who asked, and who was right in the end, question by question."""

    asks: Bool[Tensor, "n"] | Float[Tensor, "n"]
    correct: Bool[Tensor, "n"] | Float[Tensor, "n"]
    kind: Int[Tensor, "n"]
    first: bool = True

    @property
    def right(self) -> float:
        """Right answers in percent."""
        return 100 * float(self.correct.float().mean())

    @property
    def asked(self) -> float:
        """Questions that were asked again with the crops, in percent."""
        return 100 * float(self.asks.float().mean())

    @property
    def tokens(self) -> float:
        """Visual tokens a question, of both rounds; without a first one those of the second alone."""
        return (SMALL if self.first else 0) + LARGE * float(self.asks.float().mean())

    def of(self, kind: str) -> "Outcome":
        """The questions of one kind."""
        rows = self.kind == KINDS.index(kind)
        return Outcome(self.asks[rows], self.correct[rows], self.kind[rows], self.first)


def outcome(asks: Bool[Tensor, "n"], held: States, first: bool = True) -> Outcome:
    """What becomes of all questions if these ask and the likeliest word is said."""
    return Outcome(asks, torch.where(asks, held.hits[:, 1], held.hits[:, 0]), held.kind, first)


def mean(rows: list[Outcome]) -> Outcome:
    """The mean of several outcomes of the same questions, such as those of policies of other seeds."""
    asks, correct = (torch.stack([getattr(row, name).float() for row in rows]).mean(0) for name in ("asks", "correct"))
    return replace(rows[0], asks=asks, correct=correct)


def threshold(held: States, share: float) -> float:
    """How sure one must be with the thumbnail not to ask, so that a share of these questions asks."""
    return float(held.sure.quantile(share))


def gap(ours: Outcome | answers.Row, other: Outcome | answers.Row) -> tuple[float, float]:
    """By how many points ours is right more often, and twice the standard error of the paired difference."""
    apart = 100 * (ours.correct.float() - other.correct.float())
    return float(apart.mean()), 2 * float(apart.std() / len(apart) ** 0.5)


def table(rows: dict[str, Outcome], kinds: tuple[str, ...] = ()) -> str:
    """Outcomes by their names: right, asked, tokens; and of some kinds of question how many are right and ask."""
    heads = (f"{kind}: right, asks" for kind in kinds)
    lines: list[tuple[str, ...]] = [("", "right (%)", "asks (%)", "tokens", *heads)]
    for name, row in rows.items():
        each = (f"{shown(row.of(kind).right)}, {shown(row.of(kind).asked)}" for kind in kinds)
        lines.append((name, shown(row.right), shown(row.asked), shown(row.tokens), *each))
    return aligned(lines)
