"""A space that visual tokens and words have in common, as CLIP has one, for a vision-language model that has none."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from minitok.data import scenes as pictures
from minitok.data.shapes import COLOURS, SHAPES
from minitok.data.wordings import CODES
from minitok.vlm import VLM

SEED = 5 * 10**6  # far from held-out scenes
RIDGE = 1.0


@torch.no_grad()
def common_space(host: VLM, scenes: int = 48) -> Callable[[Float[Tensor, "b n c"]], Float[Tensor, "b n c"]]:
    """Maps visual tokens to where the words for what they show point, by least squares on scenes of its own.

    A patch that shows an object should point along the sum of the directions of its colour's and its shape's word, one
    that shows none nowhere. The model stays as it is: 193 x 192 numbers are fitted in closed form.
    """
    drawn = pictures.render(scenes, seed=SEED)
    seen = drawn.masks[:, :, 2::4, 2::4].flatten(2).mT.float()  # b n m: which object stands in the middle of a patch
    word = F.normalize(host.word.weight, dim=-1)
    colours, shapes = (torch.tensor([CODES[name] for name in names]) for names in (COLOURS, SHAPES))
    said = word[colours[drawn.colour.clamp(min=0)]] + word[shapes[drawn.shape.clamp(min=0)]]
    x = with_one(host.project(host.see(drawn.images))).flatten(0, 1)
    squares = x.mT @ x + RIDGE * torch.eye(x.shape[1])
    weights = torch.linalg.solve(squares, x.mT @ (seen @ said).flatten(0, 1))
    return lambda visual: with_one(visual) @ weights


def with_one(x: Float[Tensor, "b n c"]) -> Float[Tensor, "b n d"]:
    """The same with one channel more, of ones, for what is added."""
    return F.pad(x, (0, 1), value=1.0)
