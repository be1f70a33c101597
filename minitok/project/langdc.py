"""LangDC: a clip becomes as many tokens as its caption has words.

Wang, Zhang, Wang, Zhang, Zheng: Seeing More, Saying More: Lightweight Language Experts are Dynamic Video Token
Compressors, 2025, arXiv 2509.00969.

Mechanism: a video is cut into clips of a few frames. A small language model, the expert, reads a clip's features and a
prompt, and says w_i = argmax p(w_i | clip, w_<i) until the stop. Its hidden states after an inner layer, at the
positions that say w_0, w_1, ..., the stop, are the clip's tokens ("soft caption tokens"); a projector maps them to the
large language model, clips one after another, the filling masked. (1) The expert learns captions that are the longer
the more there is to see, L = -mean log p(w_i | clip, w_<i); (2) it is frozen, and the projector learns from answers.
Differs from the paper: in (2) the expert reads its own captions, where the authors give it the true ones (equal where
it says them); their code starts at the first word in training and at the prompt in use, here both start at the prompt.
The prompt is one learnt vector; frames, rows and columns have vectors of their own; one encoder, not two; the large
language model stays frozen; the second branch of pooled tokens, which the paper has as an option, is left out.
Notebook: notebooks/07_project/11_langdc.ipynb
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from minitok.attention import Cache
from minitok.data.wordings import CODES, WORDS
from minitok.nn import Shape, Transformer
from minitok.project import llava
from minitok.vlm import VLM, slots_apart

SIDE, STOP, SMALL = 16, CODES["."], Shape(width=96, layers=3, heads=3)
Step = Callable[[Tensor | None], tuple[Tensor, Tensor]]


class Told(NamedTuple):
    """What was said, the hidden state that said each word, and which are of the caption: up to its stop."""

    words: Int[Tensor, "b t"]
    states: Float[Tensor, "b t w"]
    there: Bool[Tensor, "b t"]


def tell(step: Step, most: int, stop: int = STOP) -> Told:
    """The likeliest word after each word, at most `most` of them, with the states that said them.

    >>> def step(word):  # after the prompt 2 is said, after 2 the stop, 1
    ...     word = torch.tensor([0]) if word is None else word
    ...     return word[:, None] + 7.0, F.one_hot(2 - word // 2, 3).float()
    >>> told = tell(step, 4, stop=1)
    >>> told.words.tolist(), told.states[0, :, 0].tolist()
    ([[2, 1, 0, 0]], [7.0, 9.0, 0.0, 0.0])

    `step` reads the prompt (None), then one word a row; it returns the state (b w) and the logits (b v) of the last
    position. Of equal logits the lower word is said. After a row's stop stand zeros.
    """
    said, going, rows = None, None, []
    for _ in range(most):
        state, logits = step(said)
        going = torch.ones_like(logits[:, 0], dtype=torch.bool) if going is None else going
        said = logits.argmax(-1).where(going, 0)
        rows.append((said, state * going[:, None], going))
        going = going & (said != stop)
        if not going.any():
            break
    words, states, there = (torch.stack(part, 1) for part in zip(*rows, strict=True))
    more = most - len(rows)
    return Told(F.pad(words, (0, more)), F.pad(states, (0, 0, 0, more)), F.pad(there, (0, more)))


def packed(
    tokens: Float[Tensor, "b p t w"], there: Bool[Tensor, "b p t"]
) -> tuple[Float[Tensor, "b k w"], Bool[Tensor, "b k"]]:
    """The tokens of p clips one after another in time, those that are not there moved to the end as zeros.

    >>> there = torch.tensor([[[True, False], [True, True]]])
    >>> packed(torch.tensor([[[[1.0], [9.0]], [[2.0], [3.0]]]]), there)[0].flatten()
    tensor([1., 2., 3., 0.])
    """
    tokens, there = tokens.flatten(1, 2), there.flatten(1)
    order = (~there).byte().argsort(dim=1, stable=True)
    there = there.gather(1, order)
    return tokens.gather(1, order[..., None].expand_as(tokens)) * there[..., None], there


class Captioner(nn.Module):
    """The language expert: reads a clip of up to `frames` pictures, 64 tokens each, and says what is in it.

    `layer` is the number of layers after which states are taken: 0 are the words themselves, `layers` the last ones,
    normed. Untrained it finds all words equally likely.
    """

    def __init__(
        self, c: int = 192, shape: Shape = SMALL, layer: int = 2, frames: int = 4, vocabulary: int = len(WORDS)
    ) -> None:
        super().__init__()
        if not 0 <= layer <= shape.layers:
            raise ValueError(f"layer={layer} came, expected 0 to {shape.layers}, the number of layers")
        self.width, self.layer, self.frames = (width := shape.width), layer, frames
        self.see = nn.Linear(c, width)
        self.place = nn.Parameter(torch.randn(frames + SIDE, width) / 2)  # of frames, 8 rows, 8 columns
        self.prompt, self.word = nn.Parameter(torch.randn(width) * 0.02), nn.Embedding(vocabulary, width)
        self.lm, self.head = Transformer(shape), nn.Linear(width, vocabulary)
        for weight in self.head.parameters():
            nn.init.zeros_(weight)

    def clip(self, x: Float[Tensor, "b n c"]) -> Float[Tensor, "b m w"]:
        """A clip as the expert reads it: projected, the mean of each square of four patches, and the prompt last."""
        frames, half = x.shape[1] // SIDE**2, SIDE // 2
        x = self.see(x).unflatten(1, (frames, half, 2, half, 2)).mean((3, 5))
        frame, row, column = self.place.split((self.frames, half, half))
        x = x + frame[:frames, None, None] + row[:, None] + column
        return torch.cat([x.flatten(1, 3), self.prompt.expand(len(x), 1, -1)], 1)

    def run(self, x: Float[Tensor, "b n w"], cache: Cache | None = None) -> tuple[Tensor, Tensor]:
        """The states after `layer` layers, and the logits of what is said, at each of the new positions x."""
        states = [x]
        states[-1] = last = self.lm(x, cache=cache, after_layer=lambda i, x: states.append(x) or x)
        return states[self.layer], self.head(last)

    def forward(self, x: Float[Tensor, "b n c"], words: Int[Tensor, "b t"]) -> tuple[Tensor, Tensor]:
        """Teacher forcing: the states (b t w) and logits (b t v) that say each of these words after those before it."""
        states, logits = self.run(torch.cat([self.clip(x), self.word(words[:, :-1])], 1))
        return states[:, -words.shape[1] :], logits[:, -words.shape[1] :]

    def tell(self, x: Float[Tensor, "b n c"], most: int) -> Told:
        """The caption that it finds likeliest word by word, with a cache: each word is read once."""
        cache = Cache()

        def step(word: Tensor | None) -> tuple[Tensor, Tensor]:
            states, logits = self.run(self.clip(x) if word is None else self.word(word[:, None]), cache)
            return states[:, -1], logits[:, -1]

        return tell(step, most)


def caption_loss(captioner: Captioner, x: Float[Tensor, "b n c"], words: Int[Tensor, "b t"]) -> Float[Tensor, ""]:
    """The mean cross-entropy of the words of true captions with their stops, in nats; zeros after a stop are filling.

    How long a caption is, the expert learns from the stop alone: it is a word like others.
    """
    _, logits = captioner(x, words)
    return F.cross_entropy(logits.float().flatten(0, 1), words.flatten(), ignore_index=0)


class LangDC(nn.Module):
    """A frozen expert and LLaVA's two layers behind it; of 256 patches a picture, `expert.frames` pictures are a clip.

    The k tokens that come out are the room for the captions of all clips, `most` words each; `tokens` says which of
    them are there, and `read` shows the language model only these. The expert is no part of what is trained or saved.
    """

    budgets: tuple[int, ...] = (20,)

    def __init__(self, expert: Captioner | None = None, d: int = 192, most: int = 20) -> None:
        super().__init__()
        self.held = ((Captioner() if expert is None else expert).requires_grad_(False),)  # a tuple hides it from torch
        self.most, self.projector = most, llava.LLaVA(self.held[0].width, d)

    def told(self, x: Float[Tensor, "b n c"]) -> Told:
        """What is said of each clip, none of which sees another; b p rows. Raises `ValueError` for a part of a clip."""
        expert, (pictures, rest) = self.held[0].to(x.device), divmod(x.shape[1], SIDE**2)
        size = min(pictures, expert.frames)
        if rest or not pictures or pictures % size:
            raise ValueError(f"{x.shape[1]} features came, expected {SIDE**2} a picture and whole clips of pictures")
        return expert.tell(x.reshape(-1, size * SIDE**2, x.shape[2]).to(expert.prompt.dtype), self.most)

    def tokens(
        self, x: Float[Tensor, "b n c"], k: int | None = None
    ) -> tuple[Float[Tensor, "b k d"], Bool[Tensor, "b k"]]:
        """The tokens of each row, clip after clip, and which are there. Raises `ValueError` for another room than k."""
        told = self.told(x)
        parts = (len(x), len(told.words) // len(x))
        states, there = packed(told.states.unflatten(0, parts), told.there.unflatten(0, parts))
        if k not in (None, there.shape[1]):
            raise ValueError(f"k={k} came, expected {there.shape[1]}: room for {self.most} words a clip")
        return self.projector(states.to(x.dtype)) * there[..., None], there

    def forward(self, x: Float[Tensor, "b n c"], k: int | None = None) -> Float[Tensor, "b k d"]:
        """The tokens of each row; those that are not there are zeros at its end."""
        return self.tokens(x, k)[0]

    def read(
        self,
        host: VLM,
        x: Float[Tensor, "b n c"],
        words: Int[Tensor, "b t"],
        k: int | None = None,
        *,
        slots: Int[Tensor, " t"] | None = None,
    ) -> Float[Tensor, "b t d"]:
        """What the host makes of words after the tokens that are there: `VLM.read` with the filling masked."""
        visual, there = self.tokens(x, k)
        t = words.shape[1]
        slots = torch.zeros_like(words[0]) if slots is None else slots
        index = torch.arange(t, device=words.device) - (slots[:, None] != slots).int().tril().sum(1)
        at = host.places(there.shape[1], visual.device)
        places = torch.cat([at, (host.patches + index).to(at.dtype)[None]], 1)
        seen = slots_apart(there.shape[1], slots) & F.pad(there, (0, t), value=True)[:, None, None]
        return host.lm(torch.cat([visual, host.word(words)], 1), seen, positions=places)[:, -t:]
