"""The vision-language model of the house: a ViT, a projector, and a causal Transformer that reads both and answers."""

from collections.abc import Callable
from dataclasses import replace

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from minitok.nn import Cache, Layer, Reduces, Shape, Transformer
from minitok.vit import ViT

OnLayer = Callable[[Layer], Reduces | None]


def slots_apart(k: int, slots: Int[Tensor, " t"]) -> Tensor:
    """Who sees whom when several questions follow one picture: each its own words so far, and the picture.

    >>> slots_apart(1, torch.tensor([0, 0, 1])).int().tolist()
    [[1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0], [1, 0, 0, 1]]
    """
    slot = torch.cat([slots.new_full((k,), -1), slots])
    mine = (slot[:, None] == slot) | (slot == -1)
    return mine & torch.ones_like(mine).tril()


class VLM(nn.Module):
    """Looks with a ViT, projects its patch tokens, and reads them before the words of a question.

    A visual token stands at its patch's number in raster order, 0 to 255, and the words from 256 on, however many
    visual tokens there are: so a kept token keeps its place. Questions are rows of one width, filled in front, and
    the answer is what follows their last word. CLS is not given to the language model.
    """

    def __init__(self, shape: Shape, vocabulary: int, size: int = 64, labels: int = 16) -> None:
        super().__init__()
        c = shape.width
        self.vit = ViT(replace(shape, pairing=None), size, labels)
        self.patches = (size // 4) ** 2
        self.projector = nn.Sequential(nn.Linear(c, 2 * c), nn.GELU(), nn.Linear(2 * c, c))
        self.word = nn.Embedding(vocabulary, c)
        self.lm, self.head = Transformer(shape), nn.Linear(c, vocabulary)
        nn.init.normal_(self.word.weight, std=0.02)

    def see(self, images: Float[Tensor, "b 3 H W"], on_layer: OnLayer | None = None) -> Float[Tensor, "b n c"]:
        """The features of the patches, without CLS, which is `model.vit.tokens(images)[:, 0]`."""
        return self.vit.tokens(images, on_layer)[:, 1:]

    def project(self, features: Float[Tensor, "b n c"]) -> Float[Tensor, "b n d"]:
        """Visual tokens for the language model, one a patch: two layers, as in LLaVA-1.5."""
        return self.projector(features)

    def places(self, k: int, device: torch.device) -> Float[Tensor, "1 k"]:
        """Where k visual tokens stand unless they are told: spread evenly, the middle of k equal spans.

        All patches stand at 0, 1, 2, ...
        """
        span = self.patches / k
        return (torch.arange(k, device=device, dtype=torch.float32)[None] + 0.5) * span - 0.5

    def read(
        self,
        visual: Float[Tensor, "b k d"],
        words: Int[Tensor, "b t"],
        *,
        at: Float[Tensor, "#b k"] | None = None,
        slots: Int[Tensor, " t"] | None = None,
        on_layer: OnLayer | None = None,
    ) -> Float[Tensor, "b t d"]:
        """What the language model makes of each word after the picture.

        `at` says where the visual tokens stand. `slots` numbers the question of each word where several are asked at
        once: they do not see each other. `on_layer` as in `Transformer`; what it returns must keep the words.
        """
        k, t = visual.shape[1], words.shape[1]
        at = self.places(k, visual.device) if at is None else at
        index = torch.arange(t, device=words.device)
        if slots is not None:
            index = index - (slots[:, None] != slots).int().tril().sum(1)
        places = (self.patches + index).to(at.dtype)[None].expand(len(at), -1)
        mask = "causal" if slots is None else slots_apart(k, slots)
        x = torch.cat([visual, self.word(words).to(visual.dtype)], 1)
        return self.lm(x, mask, positions=torch.cat([at, places], 1), on_layer=on_layer)[:, -t:]

    def answer_logits(
        self,
        visual: Float[Tensor, "b k d"],
        questions: Int[Tensor, "b t"],
        *,
        at: Float[Tensor, "#b k"] | None = None,
        on_layer: OnLayer | None = None,
    ) -> Float[Tensor, "b v"]:
        """The logits of the answer's first word, one question a picture."""
        return self.head(self.read(visual, questions, at=at, on_layer=on_layer)[:, -1])

    def several(
        self,
        visual: Float[Tensor, "b k d"],
        questions: Int[Tensor, "b q t"],
        *,
        at: Float[Tensor, "#b k"] | None = None,
    ) -> Float[Tensor, "b q v"]:
        """`answer_logits` of q questions about each picture, which is read once for all of them."""
        _, q, t = questions.shape
        slots = torch.arange(q, device=questions.device).repeat_interleave(t)
        return self.head(self.read(visual, questions.flatten(1), at=at, slots=slots)[:, t - 1 :: t])

    @torch.no_grad()
    def generate(
        self,
        visual: Float[Tensor, "b k d"],
        questions: Int[Tensor, "b t"],
        most: int = 16,
        *,
        at: Float[Tensor, "#b k"] | None = None,
    ) -> Int[Tensor, "b {most}"]:
        """The likeliest word after each word, `most` of them; what follows the first full stop means nothing."""
        k, cache, said = visual.shape[1], Cache(), []
        at = self.places(k, visual.device) if at is None else at
        x, start = torch.cat([visual, self.word(questions).to(visual.dtype)], 1), self.patches
        places = torch.cat([at, self.following(start, x.shape[1] - k, at)], 1)
        for _ in range(most):
            said.append(self.head(self.lm(x, positions=places, cache=cache)[:, -1]).argmax(-1))
            start += places.shape[1] - (k if len(said) == 1 else 0)
            x, places = self.word(said[-1])[:, None].to(visual.dtype), self.following(start, 1, at)
        return torch.stack(said, 1)

    def following(self, start: int, t: int, at: Float[Tensor, "#b k"]) -> Float[Tensor, "#b {t}"]:
        """The places of t words from `start` on, one row for each of `at`."""
        return (start + torch.arange(t, device=at.device, dtype=at.dtype)).expand(len(at), -1)

    def forward(self, images: Float[Tensor, "b 3 H W"], questions: Int[Tensor, "b t"]) -> Float[Tensor, "b v"]:
        """The answer's logits, one question a picture."""
        return self.answer_logits(self.project(self.see(images)), questions)
