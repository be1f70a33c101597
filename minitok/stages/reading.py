"""The host of chapter 7 with held-out pictures and questions: what it answers through a projector, and at what cost."""

import functools
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor, nn

from minitok import house, metrics
from minitok.data.clips import Clips
from minitok.data.objects import Scenes
from minitok.data.questions import Questions
from minitok.data.wordings import WORDS, encode
from minitok.house._answers import in_a_word, in_parts
from minitok.stages import answers
from minitok.stages.by_kind import Row
from minitok.stages.seeing import HOSTS, Method, Seen, draw, look, one_by_one, read, wanted
from minitok.vlm import VLM


@dataclass(frozen=True)
class Stage:
    """The host, held-out pictures with their questions, and their patches' features; `measure` tries a projector."""

    host: VLM
    scenes: Scenes | Clips
    pictures: Float[Tensor, "b *p 3 H W"]
    asked: Questions
    features: Float[Tensor, "b n c"]

    @functools.cached_property
    def which(self) -> Tensor:
        """The questions that have an answer in one word, (b, q)."""
        return in_a_word(self.asked)

    @functools.cached_property
    def seen(self) -> Seen:
        """What the encoder makes of the pictures: what a method may ask for."""
        return Seen(self.host, self.features, self.pictures)

    @functools.cached_property
    def before(self) -> Float[Tensor, "r v"]:
        """The answers' logits with the host's own projector."""
        return self.logits(self.host.project)

    @functools.cached_property
    def full(self) -> Row:
        """The row of the host's own projector, trained together with the rest."""
        return replace(self.measure(self.host.project), parameters=metrics.parameters(self.host.projector))

    def logits(self, projector: Method, k: int | None = None, size: int = 250) -> Float[Tensor, "r v"]:
        """The logits of all answers through a projector, called as `seeing.read` says."""
        _, q, t = self.asked.words.shape
        slots = torch.arange(q, device=self.features.device).repeat_interleave(t)

        def together(rows: Tensor) -> Tensor:
            hidden = read(projector, self.seen[rows], self.asked.words[rows].flatten(1), k, slots=slots)
            return self.host.head(hidden[:, t - 1 :: t])

        def apart(rows: Tensor, slot: Tensor) -> Tensor:
            return self.host.head(read(projector, self.seen[rows], self.asked.words[rows, slot], k)[:, -1])

        if one_by_one(projector):
            return in_parts(apart, *self.which.nonzero(as_tuple=True), size=size)
        return in_parts(together, torch.arange(len(self.features), device=slots.device), size=size // 4)[self.which]

    def measure(self, projector: Method, k: int | None = None) -> Row:
        """What is answered through a projector, or a function of the features. Raises `ValueError` as it does."""
        logits, whole, tokens = self.logits(projector, k), self.cost(self.usual), self.tokens(projector, k)
        flops = self.cost(tokens)
        right, own = self.asked.answer[..., 0][self.which], self.spent(projector, k) - flops
        found = answers.row(logits, self.before, right, flops / whole, own / whole)
        weights = metrics.parameters(projector) if isinstance(projector, nn.Module) else 0
        return Row(**vars(found), kinds=self.asked.kind[self.which], tokens=tokens, parameters=weights)

    @functools.cached_property
    def usual(self) -> int:
        """How many visual tokens the host's own projector makes."""
        return self.host.project(self.features[:1]).shape[1]

    @torch.no_grad()
    def tokens(self, projector: Method, k: int | None = None) -> int:
        """How many visual tokens the language model is given for the first picture and its first question."""
        words, given = self.asked.words[:1, 0], []
        hook = self.host.lm.register_forward_pre_hook(lambda _, x: given.append(x[0].shape[1]))
        read(projector, self.seen[torch.tensor([0])], words, k)
        hook.remove()
        return given[-1] - words.shape[1]

    def spent(self, projector: Method, k: int | None = None) -> int:
        """FLOPs of the projector and the language model for one question; the encoder's are not counted."""
        one, words = self.seen[torch.tensor([0])], self.asked.words[:1, 0]
        for name in {"levels", "cls"} & {*wanted(projector)}:
            getattr(one, name)
        return metrics.flops(lambda: self.host.head(read(projector, one, words, k)[:, -1]))

    @torch.no_grad()
    def says(self, scene: int, question: str, projector: Method | None = None, most: int = 3) -> dict[str, float]:
        """The likeliest answers to a question in words about one scene, with their probabilities.

        Raises `ValueError` for a word that the host does not know.
        """
        words = encode([question])
        hidden = read(projector or self.host.project, self.seen[torch.tensor([scene])], words)
        shares = self.host.head(hidden[:, -1]).softmax(-1)[0].topk(most)
        return {WORDS[code]: float(share) for share, code in zip(*shares, strict=True)}

    @functools.cache  # noqa: B019 - a stage lives as long as its lesson
    def cost(self, k: int) -> int:
        """FLOPs of the language model for one question after k visual tokens."""
        visual = self.features.new_zeros(1, k, self.host.lm.shape.width)
        return metrics.flops(self.host.answer_logits, visual, self.asked.words[0, :1])


def stage(scenes: int = 24, of: str = "scenes", device: str = "cpu") -> Stage:
    """The stage on so many held-out pictures: `scenes` of 64x64, `crops` of larger ones, or `clips` of 8 frames.

    One question of each kind and two relations are asked of each scene where it has them. Raises `ValueError` for
    another kind of picture.
    """
    drawn = draw(of, scenes, 2 * 10**6, device)
    host = house.load(HOSTS[of]).to(device)
    features = in_parts(lambda part: look(host, part), drawn.pictures, size=50)
    return Stage(host, drawn.made, drawn.pictures, drawn.asked, features)
