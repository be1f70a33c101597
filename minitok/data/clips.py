"""Short clips of scenes whose objects glide along a straight line or stand still; digits flash up for two frames.

What: frames with each object's way, its track of centres, its masks, and the frames in which its digit shows.
How many: as many as you ask for, of any length; licence as in `minitok.data.scenes`.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from minitok.data import scenes
from minitok.data.objects import Objects, place, uniform

# One step of each way of `wordings.WAYS`: left, right, up, down, nowhere.
STEPS = ((-1, 0), (1, 0), (0, -1), (0, 1), (0, 0))


@dataclass(frozen=True)
class Clips(Objects):
    """Objects and t frames in [0, 1] of each clip. `centre` is the middle of an object's track.

    `way` is an index into `wordings.WAYS`, -1 for no object. A digit shows in the frames `shown`; one that another
    object hides while it shows is not counted: its `glyph` is -1. An object of which no frame shows a pixel is not
    `present`.
    """

    images: Float[Tensor, "n t 3 H W"]
    masks: Bool[Tensor, "n t m H W"]
    tracks: Float[Tensor, "n t m 2"]
    way: Int64[Tensor, "n m"]
    shown: Bool[Tensor, "n t m"]


def _tracks(objects: Objects, u: Float[Tensor, "n m 3"], frames: int, size: int) -> tuple[Tensor, Tensor]:
    """Each object's way and the centres of its track, which lies inside the picture."""
    way = (u[..., 0] * len(STEPS)).long()
    length = size * (0.25 + 0.15 * u[..., 1, None])
    path = torch.tensor(STEPS, dtype=torch.float32, device=u.device)[way] * length  # n m 2
    margin = (1.1 * objects.radius + 0.5)[..., None] + path.abs() / 2
    middle = objects.centre.maximum(margin).minimum(size - margin)
    time = torch.linspace(-0.5, 0.5, frames, device=u.device)[:, None, None]
    return way.where(objects.present, -1), middle[:, None] + time * path[:, None]


def render(
    n: int,
    *,
    frames: int = 8,
    size: int = 64,
    seed: int = 0,
    max_objects: int = 4,
    device: str | torch.device = "cpu",
) -> Clips:
    """Draws n clips over crops of photographs that stand still. Clip i depends on all arguments but n and the device.

    Raises `ValueError` for fewer than 2 frames, and what `objects.place` raises.
    """
    if frames < 2:
        raise ValueError(f"frames={frames} is less than 2, and nothing can move")
    objects = place(n, size=size, seed=seed, max_objects=max_objects, device=device)
    u = uniform(n, 3 * max_objects + 1, seed + 2**41, device)
    way, tracks = _tracks(objects, u[:, 1:].view(n, max_objects, 3), frames, size)
    first = (u[:, 3::3] * (frames - 1)).long()[:, None]
    index = torch.arange(frames, device=device)[:, None]
    shown = (index >= first) & (index <= first + 1) & (objects.glyph >= 0)[:, None]  # n t m
    drawn = _frames(objects, tracks, shown, u[:, 0], size)
    masks = drawn.masks.unflatten(0, (n, frames))
    area = masks.sum((3, 4))
    whole = (area >= 0.9 * area.amax(1, keepdim=True)) & shown
    present, middle = (area > 0).any(1), tracks.mean(1)
    glyph = objects.glyph.where(whole.any(1), -1)
    labels = objects.shape, objects.colour, objects.size, glyph, middle, objects.radius
    return Clips(present, *labels, drawn.images.unflatten(0, (n, frames)), masks, tracks, way, shown)


def _frames(objects: Objects, tracks: Tensor, shown: Tensor, u: Tensor, size: int) -> scenes.Scenes:
    """All frames of all clips as scenes, one after another."""
    n, frames = tracks.shape[:2]
    still = [objects.present, objects.shape, objects.colour, objects.size, objects.glyph, objects.radius]
    present, shape, colour, bulk, glyph, radius = (part.repeat_interleave(frames, 0) for part in still)
    moved = Objects(present, shape, colour, bulk, glyph.where(shown.flatten(0, 1), -1), tracks.flatten(0, 1), radius)
    bank = scenes.dim_photographs(size, u.device)
    return scenes.draw(moved, bank[(u * len(bank)).long()].repeat_interleave(frames, 0))
