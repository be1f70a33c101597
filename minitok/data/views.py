"""Large scenes as several small pictures: a thumbnail of the whole and its four quarters."""

from dataclasses import replace

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from minitok.data import scenes
from minitok.data.objects import Scenes, place, uniform


def views(images: Float[Tensor, "b c H W"]) -> Float[Tensor, "b 5 c h w"]:
    """The picture at half its size, then its upper left, upper right, lower left and lower right quarter.

    >>> views(torch.arange(16.0).view(1, 1, 4, 4))[0, :, 0, 0].tolist()
    [[2.5, 4.5], [0.0, 1.0], [2.0, 3.0], [8.0, 9.0], [10.0, 11.0]]

    Raises `ValueError` for an odd height or width.
    """
    height, width = images.shape[2:]
    if height % 2 or width % 2:
        raise ValueError(f"images of {height} x {width} came, expected an even height and width")
    quarters = [part for half in images.chunk(2, 2) for part in half.chunk(2, 3)]
    return torch.stack([F.avg_pool2d(images, 2), *quarters], 1)


def render_in_a_quarter(
    n: int, *, size: int = 128, seed: int = 0, max_objects: int = 4, device: str | torch.device = "cpu"
) -> Scenes:
    """Scenes all of whose objects stand in one quarter of the picture, any of the four, as small as they are there."""
    objects = place(n, size=size // 2, seed=seed, max_objects=max_objects, device=device)
    u = uniform(n, 2, seed + 2**42, device)
    quarter = (u[:, :1] * 4).long()
    shift = torch.stack([quarter % 2, quarter // 2], 2) * (size // 2)
    bank = scenes.dim_photographs(size, device)
    return scenes.draw(replace(objects, centre=objects.centre + shift), bank[(u[:, 1] * len(bank)).long()])
