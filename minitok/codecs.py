"""JPEG and WebP at a budget in bytes: the classical baselines that a learned tokenizer has to beat.

The size is that of a whole file, header included, since nothing can be decoded without it. (Of a JPEG file
some 300 bytes are header, whatever the image.) Coding is by Pillow, with the settings that are slow and
give small files.
"""

import io
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

# Format: lowest quality, settings of all files, settings of which each is tried.
_CODERS: dict[str, tuple[int, dict[str, Any], list[dict[str, Any]]]] = {
    "JPEG": (1, {"optimize": True}, [{"subsampling": "4:2:0"}, {"subsampling": "4:4:4"}]),
    "WEBP": (0, {"method": 6}, [{}]),
}


class Coded(NamedTuple):
    """Decoded images in [0, 1] and the size of each one's file in bytes."""

    images: Float[Tensor, "b 3 H W"]
    bytes: Int[Tensor, "b"]


def at_budget(images: Float[Tensor, "b 3 H W"], budget: int, format: str = "JPEG") -> Coded:
    """Codes each image as well as `format` ("JPEG" or "WEBP") can in a file of at most `budget` bytes.

    Every image is coded at full, half and quarter size (Lanczos down, bicubic up after decoding), JPEG with
    and without chroma subsampling, each at the highest quality setting that fits. Bisection finds it: the
    size grows with the quality, except by a few bytes, which cost 0.01 dB on average. Of these files the
    one with the highest PSNR is kept. Input is rounded to 8 bits a channel. Raises `ValueError` when an
    image fits in no way.
    """
    if format not in _CODERS:
        raise ValueError(f"format={format!r}, expected one of {', '.join(_CODERS)}")
    if not ((images >= 0) & (images <= 1)).all():
        raise ValueError("images hold values outside [0, 1]")
    pixels = (images.detach().cpu().float() * 255).round().byte()
    coded = []
    for i, image in enumerate(pixels):
        files = list(_files(image, budget, format))
        if not files:
            raise ValueError(
                f"budget={budget} bytes: image {i} does not fit as {format}, even at a quarter of its size"
            )
        # max keeps the first of equals, so ties go to the larger size.
        coded.append(max(files, key=lambda file: -(file[0].int() - image).square().sum().item()))
    decoded = torch.stack([image for image, _ in coded]) if coded else pixels
    sizes = torch.tensor([size for _, size in coded], dtype=torch.long)
    return Coded((decoded.float() / 255).to(images), sizes)


def _files(image: Tensor, budget: int, format: str) -> Iterator[tuple[Tensor, int]]:
    """Each variant of one image that fits, decoded, with its size in bytes."""
    import numpy as np
    from PIL import Image

    lowest, common, variants = _CODERS[format]
    picture = Image.fromarray(image.permute(1, 2, 0).contiguous().numpy())
    for shrink in (1, 2, 4):
        small = picture.resize([max(1, side // shrink) for side in picture.size], Image.Resampling.LANCZOS)
        for variant in variants:
            file = _highest_quality(small, budget, lowest, {"format": format, **common, **variant})
            if file is not None:
                decoded = Image.open(io.BytesIO(file)).convert("RGB").resize(picture.size, Image.Resampling.BICUBIC)
                yield torch.from_numpy(np.array(decoded)).permute(2, 0, 1), len(file)


def _highest_quality(picture: Any, budget: int, lowest: int, settings: dict[str, Any]) -> bytes | None:
    """The file of the highest quality that has at most `budget` bytes; None when the lowest has more."""
    best, high = None, 100
    while lowest <= high:
        middle = (lowest + high) // 2
        buffer = io.BytesIO()
        picture.save(buffer, quality=middle, **settings)
        if buffer.tell() <= budget:
            best, lowest = buffer.getvalue(), middle + 1
        else:
            high = middle - 1
    return best
