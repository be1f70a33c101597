"""The third host of chapter 6: a model that reads several pictures at once, a thumbnail with its crops or a clip.

`stage(scenes=24, of="crops").measure(method, 80)` leaves 80 of the 5 x 64 visual tokens of scenes of 128x128, for which
"quarters" puts all objects into one quarter; "clips" are 8 x 64 tokens of 8 frames. A token shows 8x8 pixels of its
picture. What is measured, and how, is that of `reduce_vlm`; the ways of moving objects are not asked for, since the
house's vlm_many has not learnt to tell them: 29 % right where 22 are the most frequent answer.
"""

import functools
from dataclasses import dataclass
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor

from minitok import house
from minitok.nn import Layer
from minitok.reduce import offered
from minitok.stages import reduce_cuts, reduce_vlm
from minitok.stages.reduce_rows import asked_pixels
from minitok.stages.seeing import ASKS, HOSTS, Drawn, draw
from minitok.vlm import ManyVLM

KINDS = ("crops", "quarters", "clips")
UNASKED = {"motion", "caption"}  # the one is not learnt, the other's answer is no word
PART = 8  # rows whose pictures the ViT sees at once: its maps of more would fill the memory


@dataclass(frozen=True, eq=False)
class Stage(reduce_vlm.Stage):
    """The host with several pictures a row; `drawn` holds them."""

    drawn: Drawn
    patch = 8

    @functools.cached_property
    def objects(self) -> Tensor:
        """The pixels of all pictures, one below another, that show the objects asked for, (r, p H, W).

        So in a scene of 128x128 an object counts in its crop with four times as many pixels as in the thumbnail, and
        in a clip as often as it is seen.
        """
        return asked_pixels(self.drawn.masks.transpose(1, 2).flatten(2, 3), self.questions)


def fours(x: Float[Tensor, "*b n"]) -> Float[Tensor, "*b n/4 4"]:
    """The four patches of each token, which are neighbours on the picture's square grid.

    >>> fours(torch.arange(16.0)).tolist()[1]
    [2.0, 3.0, 6.0, 7.0]
    """
    half = round(x.shape[-1] ** 0.5) // 2
    return x.unflatten(-1, (half, 2, half, 2)).transpose(-3, -2).flatten(-2).flatten(-3, -2)


def apart(maps: Float[Tensor, "b p h m m"]) -> Float[Tensor, "b h n n"]:
    """The maps of p pictures as one, in which nobody pays to another picture's tokens."""
    b, p, h, m, _ = maps.shape
    whole, i = maps.new_zeros(b, h, p, m, p, m), torch.arange(p)
    whole[:, :, i, :, i] = maps.transpose(0, 1)
    return whole.flatten(4, 5).flatten(2, 3)


def looked(host: ManyVLM, pictures: Float[Tensor, "b p 3 H W"]) -> dict[str, Tensor]:
    """The visual tokens of several pictures a row, `visual`, and what the ViT knows of them, by a method's names.

    A token is four patches: `cls_attention` (b h n), what the CLS token of its picture pays to them in the last layer,
    and `cls_first`, in the first, are sums; `keys` (b h n d) of the last are means; in `attention` (b h n n) there,
    what a token pays is the mean of what its patches pay, and what it is paid the sum.
    """
    found: dict[str, Tensor] = {}

    def look(layer: Layer) -> None:
        if layer.index == 0:
            found["cls_first"] = layer.attention[:, :, 0, 1:]
        if layer.index == last:
            found.update(offered(layer, asked=("keys", "attention", "cls_attention")))

    last = len(host.vit.body.blocks) - 1
    visual = host.project(host.see(pictures.flatten(0, 1), look).unflatten(0, pictures.shape[:2]).flatten(1, 2))
    each = {name: signal.unflatten(0, pictures.shape[:2]) for name, signal in found.items()}
    own = {name: fours(each[name]).sum(-1).transpose(1, 2).flatten(2) for name in ("cls_first", "cls_attention")}
    keys = fours(each["keys"].transpose(-1, -2)).mean(-1).movedim(-1, -2)  # b p h m d
    own["keys"] = keys.transpose(1, 2).flatten(2, 3)
    paid = fours(each["attention"]).sum(-1).transpose(-1, -2)
    own["attention"] = apart(fours(paid).mean(-1).transpose(-1, -2))
    return own | {"visual": visual}


@torch.no_grad()
def stage(scenes: int = 24, of: str = "crops", seed: int = 3 * 10**6) -> Stage:
    """The stage on so many held-out scenes with their crops, or clips, with the questions that `UNASKED` leaves.

    Raises `ValueError` for another kind of picture.
    """
    if of not in KINDS:
        raise ValueError(f"of={of!r} came, expected one of {', '.join(KINDS)}")
    host, drawn = cast("ManyVLM", house.load(HOSTS[of])), draw(of, scenes, seed)
    asked = drawn.asked[:, [i for i, kinds in enumerate(ASKS[of]) if not UNASKED & {*kinds}]]
    parts = [looked(host, part) for part in drawn.pictures.split(PART)]
    known = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    start = reduce_cuts.before(host, known.pop("visual"), asked.words, known, pictures=drawn.pictures.shape[1])
    return Stage(host, drawn.made, asked, start, drawn)
