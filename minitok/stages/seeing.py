"""What the hosts of chapter 7 are given: scenes, crops or clips with their questions, and what a method may ask to see.

A method says by the names of its arguments what it needs beside the patches' features (`SIGNALS`); `read` gives it.
"""

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from minitok.data import clips, scenes
from minitok.data.clips import Clips
from minitok.data.objects import Scenes
from minitok.data.questions import SLOTS, Questions, ask
from minitok.data.views import render_in_a_quarter, views
from minitok.house import vlm_many
from minitok.vlm import VLM, ManyVLM

# Which model of the house answers, and what is asked, of each kind of picture.
HOSTS = {"scenes": "vlm", "crops": "vlm_many", "quarters": "vlm_many", "clips": "vlm_many"}
ASKS = {
    "scenes": SLOTS, "crops": vlm_many.OF_SCENES, "quarters": vlm_many.OF_SCENES, "clips": vlm_many.OF_CLIPS,
}  # fmt: skip
SIGNALS = ("text", "asked", "levels", "cls", "images")
Method = Callable[..., Any]


@dataclass(frozen=True)
class Drawn:
    """Pictures with their questions, and the pixels of each that show each of m objects."""

    made: Scenes | Clips
    pictures: Float[Tensor, "b *p 3 H W"]
    asked: Questions
    masks: Bool[Tensor, "b *p m H W"]

    @property
    def where(self) -> Int[Tensor, "b n"]:
        """The slot of the object that each patch shows in its middle, or -1."""
        middle = self.masks[..., 2::4, 2::4].flatten(-2).movedim(-2, 1)  # b m *p patches
        return middle.byte().argmax(1).where(middle.any(1), -1).flatten(1)


def draw(of: str, n: int, seed: int, device: torch.device | str = "cpu") -> Drawn:
    """n scenes of 64x64, large scenes as thumbnail and crops, the same with all objects in a quarter, or clips.

    Clips have 8 frames. Raises `ValueError` for another kind of picture.
    """
    if of not in HOSTS:
        raise ValueError(f"of={of!r} came, expected one of {', '.join(HOSTS)}")
    if of == "clips":
        made = clips.render(n, seed=seed, device=device)
    elif of == "quarters":
        made = render_in_a_quarter(n, seed=seed, device=device)
    elif of == "crops":
        made = scenes.render(n, size=128, max_objects=9, seed=seed, device=device)
    else:
        made = scenes.render(n, seed=seed, device=device)
    pictures, masks = made.images, made.masks
    if of in ("crops", "quarters"):
        pictures, masks = views(pictures), views(masks.float()) >= 0.5
    return Drawn(made, pictures, ask(made, ASKS[of], seed=seed), masks)


@torch.no_grad()
def look(host: VLM, pictures: Float[Tensor, "b *p 3 H W"]) -> Float[Tensor, "b n c"]:
    """The features of the patches of all pictures, one picture after another."""
    return host.look(pictures) if isinstance(host, ManyVLM) else host.see(pictures)


@dataclass(frozen=True)
class Seen:
    """What the encoder makes of pictures; what a method asks for beside the features is computed when it does."""

    host: VLM
    x: Float[Tensor, "b n c"]
    images: Float[Tensor, "b *p 3 H W"]

    @functools.cached_property
    def levels(self) -> Float[Tensor, "b l n c"]:
        """The patches' features after each layer."""
        each = self.host.levels(self.images.flatten(0, -4))
        return each.unflatten(0, (len(self.x), -1)).transpose(1, 2).flatten(2, 3)

    @functools.cached_property
    def cls(self) -> Float[Tensor, "b *p c"]:
        """The CLS token of each picture."""
        with torch.no_grad():
            tokens = self.host.vit.tokens(self.images.flatten(0, -4))[:, 0]
        return tokens.unflatten(0, self.images.shape[:-3])

    def __getitem__(self, rows: Tensor) -> "Seen":
        """Some of the pictures; what was computed of all of them is not computed again."""
        some = Seen(self.host, self.x[rows], self.images[rows])
        vars(some).update({name: value[rows] for name, value in vars(self).items() if name in ("levels", "cls")})
        return some


def wanted(method: Method) -> list[str]:
    """The signals that a method asks for by the names of its arguments, those of its `read` where it has one.

    >>> wanted(lambda x, k, text, levels: x)
    ['text', 'levels']
    """
    entry = getattr(method, "read", None) or (method.forward if isinstance(method, nn.Module) else method)
    given = inspect.signature(entry).parameters
    return [name for name in SIGNALS if name in given]


def one_by_one(method: Method) -> bool:
    """Whether a method's tokens depend on the question, so that each question needs a row of its own."""
    return "text" in wanted(method)


def read(
    method: Method,
    seen: Seen,
    words: Int[Tensor, "b t"],
    k: int | None = None,
    *,
    slots: Int[Tensor, " t"] | None = None,
    asked: Bool[Tensor, "b t"] | None = None,
) -> Float[Tensor, "b t d"]:
    """What the host makes of words after a picture that reaches it through a method, with k tokens where it is given.

    `asked` says which of the words are the question's: not those that fill it up, and not an answer's.
    """
    asked = words > 0 if asked is None else asked
    signals = {"text": lambda: seen.host.word(words), "asked": lambda: asked}
    named = {name: signals[name]() if name in signals else getattr(seen, name) for name in wanted(method)}
    budget = () if k is None else (k,)
    if hasattr(method, "read"):
        return method.read(seen.host, seen.x, words, *budget, slots=slots, **named)
    return seen.host.read(method(seen.x, *budget, **named), words, slots=slots)
