"""Random views of a batch of images, made on the device that holds it: what makes a few thousand photographs last."""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


def uniform(b: int, low: float, high: float, like: Tensor) -> Float[Tensor, "b"]:
    """b random numbers between low and high, on the device of `like`."""
    return torch.empty(b, device=like.device).uniform_(low, high)


def affine(
    images: Float[Tensor, "b c H W"],
    zoom: tuple[float, float] = (1.0, 1.0),
    degrees: float = 0.0,
    shift: float = 0.0,
    flip: bool = False,
    squeeze: float = 1.0,
) -> Float[Tensor, "b c H W"]:
    """Each image seen through a random window.

    The window is `zoom` times the image's width (0.5 doubles what is inside), turned by up to `degrees`, moved by up to
    `shift` of the half width, mirrored half of the time with `flip`, and up to `squeeze` times wider than high or
    higher than wide. What lies outside repeats the border. Raises `ValueError` for ranges that are empty.
    """
    if not 0 < zoom[0] <= zoom[1] < math.inf:
        raise ValueError(f"zoom={zoom} came, expected 0 < low <= high")
    if not (0 <= degrees < math.inf and 0 <= shift < math.inf and 1 <= squeeze < math.inf):
        raise ValueError(f"degrees={degrees}, shift={shift}, squeeze={squeeze} came, expected at least 0, 0 and 1")
    b = len(images)
    angle = uniform(b, -degrees, degrees, images) * math.pi / 180
    scale = uniform(b, math.log(zoom[0]), math.log(zoom[1]), images).exp()
    ratio = uniform(b, -math.log(squeeze) / 2, math.log(squeeze) / 2, images).exp()
    side = 1.0 - 2.0 * (torch.rand(b, device=images.device) < 0.5) if flip else torch.ones(b, device=images.device)
    room = shift + (1 - scale).clamp(min=0)  # a smaller window may go anywhere inside the image
    x, y = (torch.empty(b, device=images.device).uniform_(-1, 1) * room for _ in range(2))
    across, down = scale * ratio, scale / ratio
    top = torch.stack([across * angle.cos() * side, -down * angle.sin(), x], dim=-1)
    bottom = torch.stack([across * angle.sin() * side, down * angle.cos(), y], dim=-1)
    grid = F.affine_grid(torch.stack([top, bottom], dim=1), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid.to(images.dtype), padding_mode="border", align_corners=False)


def recolour(images: Float[Tensor, "b 3 H W"], strength: float = 0.3) -> Float[Tensor, "b 3 H W"]:
    """Each image with other brightness, contrast and saturation, by up to `strength` each, and tint, by half of it."""
    if not 0 <= strength <= 1:
        raise ValueError(f"strength={strength} came, expected 0 to 1")
    b = len(images)
    brightness, contrast, saturation = (
        1 + uniform(b, -strength, strength, images)[:, None, None, None] for _ in range(3)
    )
    tint = 1 + (torch.rand(b, 3, 1, 1, device=images.device) - 0.5) * strength
    grey = images.mean(1, keepdim=True)
    x = (images - grey) * saturation + grey
    mean = x.mean((1, 2, 3), keepdim=True)
    return ((x - mean) * contrast + mean * brightness).mul(tint).clamp(0, 1)


def erase(images: Float[Tensor, "b c H W"], share: float = 0.3) -> Float[Tensor, "b c H W"]:
    """Each image with one square of `share` of its width painted in a random grey, half of the time."""
    if not 0 <= share <= 1:
        raise ValueError(f"share={share} came, expected 0 to 1")
    b, _, height, width = images.shape
    rows, columns = (torch.arange(side, device=images.device) + 0.5 for side in (height, width))
    top, left = (torch.rand(b, 1, device=images.device) * (1 - share) for _ in range(2))
    inside_rows = (rows >= top * height) & (rows < (top + share) * height)
    inside_columns = (columns >= left * width) & (columns < (left + share) * width)
    inside = inside_rows[:, None, :, None] & inside_columns[:, None, None, :]
    inside &= torch.rand(b, 1, 1, 1, device=images.device) < 0.5
    return torch.where(inside, torch.rand(b, 1, 1, 1, device=images.device), images)
