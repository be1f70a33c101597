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

    @torch.no_grad()
    def levels(self, images: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b l n c"]:
        """What each of the l layers of the ViT leaves of the patches, before its last norm and without CLS."""
        found: list[Tensor] = []

        def keep(i: int, x: Tensor) -> Tensor:
            found.append(x[:, 1:])
            return x

        self.vit.tokens(images, after_layer=keep)
        return torch.stack(found, 1)

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
        text: Float[Tensor, "b t d"] | None = None,
        on_layer: OnLayer | None = None,
        after_layer: Callable[[int, Tensor], Tensor] | None = None,
    ) -> Float[Tensor, "b t d"]:
        """What the language model makes of each word after the picture.

        `at` says where the visual tokens stand. `slots` numbers the question of each word where several are asked at
        once: they do not see each other. `text` is read instead of the words' own embeddings. `on_layer` and
        `after_layer` as in `Transformer`; what they return must keep the words, which stand last.
        """
        k, t = visual.shape[1], words.shape[1]
        at = self.places(k, visual.device) if at is None else at
        index = torch.arange(t, device=words.device)
        if slots is not None:
            index = index - (slots[:, None] != slots).int().tril().sum(1)
        places = (self.patches + index).to(at.dtype)[None].expand(len(at), -1)
        mask = "causal" if slots is None else slots_apart(k, slots)
        x = torch.cat([visual, self.word(words) if text is None else text], 1)
        places = torch.cat([at, places], 1)
        return self.lm(x, mask, positions=places, on_layer=on_layer, after_layer=after_layer)[:, -t:]

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
        x, start = torch.cat([visual, self.word(questions)], 1), self.patches
        places = torch.cat([at, self.following(start, x.shape[1] - k, at)], 1)
        for _ in range(most):
            said.append(self.head(self.lm(x, positions=places, cache=cache)[:, -1]).argmax(-1))
            start += places.shape[1] - (k if len(said) == 1 else 0)
            x, places = self.word(said[-1])[:, None], self.following(start, 1, at)
        return torch.stack(said, 1)

    def following(self, start: int, t: int, at: Float[Tensor, "#b k"]) -> Float[Tensor, "#b {t}"]:
        """The places of t words from `start` on, one row for each of `at`."""
        return (start + torch.arange(t, device=at.device, dtype=at.dtype)).expand(len(at), -1)

    def forward(self, images: Float[Tensor, "b 3 H W"], questions: Int[Tensor, "b t"]) -> Float[Tensor, "b v"]:
        """The answer's logits, one question a picture."""
        return self.answer_logits(self.project(self.see(images)), questions)


class ManyVLM(VLM):
    """The model for several pictures at once: a thumbnail with its crops, or the frames of a clip.

    Each picture of 256 patches becomes 64 visual tokens: the features of four neighbours, side by side, go through the
    projector (a pixel shuffle), and what the picture is (`CROPS` or `FRAMES`) is added. Tokens stand one after another,
    the words from 512 on.
    """

    CROPS, FRAMES = tuple(range(5)), tuple(range(5, 13))

    def __init__(self, shape: Shape, vocabulary: int, size: int = 64, labels: int = 16) -> None:
        super().__init__(shape, vocabulary, size, labels)
        c, self.side = shape.width, size // 4
        self.projector = nn.Sequential(nn.Linear(4 * c, 2 * c), nn.GELU(), nn.Linear(2 * c, c))
        self.picture = nn.Parameter(torch.randn(len(self.CROPS + self.FRAMES), c) * 0.02)
        self.patches = len(self.FRAMES) * self.side**2 // 4

    def look(self, pictures: Float[Tensor, "b p 3 H W"]) -> Float[Tensor, "b n c"]:
        """The features of the patches of p pictures, one picture after another."""
        return self.see(pictures.flatten(0, 1)).unflatten(0, pictures.shape[:2]).flatten(1, 2)

    def project(
        self, features: Float[Tensor, "b n c"], pictures: tuple[int, ...] | None = None
    ) -> Float[Tensor, "b k d"]:
        """64 visual tokens a picture; `pictures` says which they are, by default crops if they are five, else frames.

        Raises `ValueError` for features of another number of pictures.
        """
        count = features.shape[1] // self.side**2
        pictures = (self.CROPS if count == 5 else self.FRAMES[:count]) if pictures is None else pictures
        if features.shape[1] != len(pictures) * self.side**2:
            raise ValueError(f"{features.shape[1]} features came for {len(pictures)} pictures of {self.side**2}")
        half = self.side // 2
        squares = features.unflatten(1, (len(pictures), half, 2, half, 2)).transpose(3, 4)  # b p i j 2 2 c
        tokens = self.projector(squares.reshape(len(features), len(pictures), half * half, -1))
        return (tokens + self.picture[list(pictures), None]).flatten(1, 2)

    def places(self, k: int, device: torch.device) -> Float[Tensor, "1 k"]:
        """Visual tokens stand one after another from 0 on."""
        return torch.arange(k, device=device, dtype=torch.float32)[None]
