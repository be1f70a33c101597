"""Stick figures that walk, halt, turn and reach, before a camera that keeps up with them: 17 joints in 3D and in 2D.

What: sequences of poses at 25 frames a second, each joint's place in the camera's space and in its picture. The gait
comes from formulas: angles of hips, knees and arms swing with a phase that rests while the figure halts.
How many: as many as you ask for, of any length; licence as the project's, for nothing here comes from elsewhere.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from minitok.data.objects import uniform

JOINTS = (
    "pelvis", "right hip", "right knee", "right ankle", "left hip", "left knee", "left ankle", "spine", "thorax",
    "neck", "head", "left shoulder", "left elbow", "left wrist", "right shoulder", "right elbow", "right wrist",
)  # fmt: skip
# Pairs of joints that a line joins.
BONES = (
    (0, 1), (1, 2), (2, 3), (0, 4), (4, 5), (5, 6), (0, 7), (7, 8), (8, 9), (9, 10),
    (8, 11), (11, 12), (12, 13), (8, 14), (14, 15), (15, 16),
)  # fmt: skip
FOCAL, RATE = 2.0, 25.0
# From where to where each trait of a figure or of its camera is drawn: metres, radians, cycles a second, and shares of
# the sequence for what happens once in it.
TRAITS = {
    "height": (0.85, 1.15), "legs": (0.93, 1.07), "arms": (0.93, 1.07), "shoulders": (0.17, 0.22),
    "cadence": (0.7, 1.3), "stride": (0.3, 0.6), "knee": (0.6, 1.2), "swing": (0.2, 0.7), "elbow": (0.1, 0.9),
    "lean": (-0.05, 0.25), "phase": (0.0, math.tau), "heading": (0.0, math.tau), "turn": (-1.5, 1.5),
    "turned": (0.1, 0.9), "halt": (-0.6, 0.7), "rest": (0.2, 0.5), "reach": (0.1, 0.9), "brief": (0.04, 0.12),
    "side": (-1.0, 1.0), "raised": (1.0, 2.6), "camera": (0.5, 2.5), "distance": (3.5, 6.0), "aside": (-0.4, 0.4),
}  # fmt: skip


@dataclass(frozen=True)
class Poses:
    """`space`: metres right, down and away from the camera. `image`: right and down of the middle of the picture, whose
    edges are at -1 and 1, as a detector that errs a little would find them. `moving`: 1 in a gait, 0 in a halt."""

    space: Float[Tensor, "n t 17 3"]
    image: Float[Tensor, "n t 17 2"]
    moving: Float[Tensor, "n t"]

    @property
    def relative(self) -> Float[Tensor, "n t 17 3"]:
        """Metres from the pelvis: what is to be found out."""
        return self.space - self.space[:, :, :1]


def limb(
    start: Tensor, lengths: tuple[Tensor, Tensor], swing: Tensor, bent: Tensor, out: Tensor
) -> tuple[Tensor, Tensor]:
    """Where the two bones of a limb that hangs from `start` end: it swings forward and out to the right; the second
    bone is bent forward by so much more."""

    def bone(angle: Tensor) -> Tensor:
        return torch.stack([out.sin().expand_as(angle), -out.cos() * angle.cos(), out.cos() * angle.sin()], -1)

    middle = start + lengths[0][..., None] * bone(swing)
    return middle, middle + lengths[1][..., None] * bone(swing + bent)


def figure(u: dict[str, Tensor], phase: Tensor, moving: Tensor, reach: Tensor) -> Float[Tensor, "n t 17 3"]:
    """Metres right, up and forward of the pelvis, as the figure itself sees it."""
    nothing = torch.zeros_like(phase)
    size, leg, arm = u["height"], u["height"] * u["legs"], u["height"] * u["arms"]

    def at(right: Tensor, up: Tensor, forward: Tensor) -> Tensor:
        return torch.stack([part.expand_as(phase) for part in (right, up, forward)], -1)

    def along(length: float) -> Tensor:
        return at(nothing, length * size * u["lean"].cos(), length * size * u["lean"].sin())

    joints = {"pelvis": at(nothing, nothing, nothing)}
    for name, length in (("spine", 0.24), ("thorax", 0.48), ("neck", 0.58), ("head", 0.7)):
        joints[name] = along(length)
    for name, sign in (("right", 1.0), ("left", -1.0)):
        turn = phase + (0.0 if sign > 0 else math.pi)
        joints[f"{name} hip"] = hip = at(sign * 0.13 * size, nothing, nothing)
        bent = -u["knee"] * moving * (turn.cos() * 0.5 + 0.5).square() - 0.08
        parts = limb(hip, (0.45 * leg, 0.44 * leg), u["stride"] * moving * turn.sin(), bent, nothing)
        joints[f"{name} knee"], joints[f"{name} ankle"] = parts
        joints[f"{name} shoulder"] = shoulder = along(0.46) + at(sign * u["shoulders"] * size, nothing, nothing)
        raised = reach * (u["side"] * sign > 0)
        swing = -u["swing"] * moving * turn.sin() + u["raised"] * raised
        parts = limb(shoulder, (0.28 * arm, 0.25 * arm), swing, u["elbow"] * (1 - 0.8 * raised), nothing + sign * 0.12)
        joints[f"{name} elbow"], joints[f"{name} wrist"] = parts
    return torch.stack([joints[name] for name in JOINTS], 2)


def seen(body: Float[Tensor, "n t 17 3"], u: dict[str, Tensor], heading: Tensor) -> Float[Tensor, "n t 17 3"]:
    """A figure turned by its heading, its lower foot on the floor, in the space of a camera aimed at its middle."""
    right, up, forward = body.unbind(-1)
    cos, sin = heading.cos()[..., None], heading.sin()[..., None]
    x, z = cos * right + sin * forward + u["aside"][..., None], cos * forward - sin * right
    y = up - up[:, :, [3, 6]].amin(2, keepdim=True) - u["camera"][..., None]  # ankles at the height of the floor
    tilt = ((u["camera"] - 0.9) / u["distance"]).atan()[..., None]
    z = z + u["distance"][..., None]
    return torch.stack([x, -(tilt.cos() * y + tilt.sin() * z), tilt.cos() * z - tilt.sin() * y], -1)


def render(
    n: int, *, frames: int = 81, seed: int = 0, noise: float = 0.01, device: str | torch.device = "cpu"
) -> Poses:
    """Draws n sequences. Sequence i depends on all arguments but n and the device.

    `noise` is the standard deviation of a detector's errors in the picture, apart in each joint and frame. Raises
    `ValueError` for no sequences, for fewer than 2 frames, and for a noise below 0.
    """
    if n < 1 or frames < 2 or not 0 <= noise < math.inf:
        raise ValueError(f"n={n}, frames={frames} and noise={noise} came, expected at least 1, 2 and 0")
    drawn = uniform(n, len(TRAITS), 2 * seed, device).unbind(1)
    u = {name: (low + (high - low) * x)[:, None] for (name, (low, high)), x in zip(TRAITS.items(), drawn, strict=True)}
    time = torch.linspace(0, 1, frames, device=device)[None]
    # Steps that are soft over a few hundredths of the sequence; a halt that would begin before it does not come.
    edge = torch.sigmoid((time - u["halt"]) / 0.02) * torch.sigmoid((u["halt"] + u["rest"] - time) / 0.02)
    moving = 1 - edge * (u["halt"] > 0)
    phase = u["phase"] + math.tau * u["cadence"] / RATE * (moving.cumsum(1) - moving[:, :1])
    heading = u["heading"] + u["turn"] * torch.sigmoid((time - u["turned"]) / 0.06)
    reach = (-((time - u["reach"]) / u["brief"]).square()).exp()
    space = seen(figure(u, phase, moving, reach), u, heading)
    errs = uniform(n, frames * len(JOINTS) * 4, 2 * seed + 1, device).view(n, frames, len(JOINTS), 2, 2)
    # The sum of two uniform numbers has a variance of 1/6.
    image = FOCAL * space[..., :2] / space[..., 2:] + noise * 6**0.5 * (errs.sum(-1) - 1)
    return Poses(space, image, moving)
