"""One picture for the tour: the reader's own, or a portrait that no house model has learnt from.

What: Rear Admiral Grace Hopper, who wrote the first compiler; a photograph of 512x600 pixels (width x height).
Licence: public domain (United States Navy). It comes inside matplotlib; nothing is downloaded.
URL: https://matplotlib.org/stable/gallery/images_contours_and_fields/image_demo.html
"""

import os
import pathlib

from jaxtyping import Float
from PIL import Image, ImageOps
from torch import Tensor

from minitok.data import packaged, pixels, square

PORTRAIT = ("matplotlib", "mpl-data", "sample_data", "grace_hopper.jpg")


def find(path: str | os.PathLike[str]) -> pathlib.Path:
    """The absolute path of a picture file. Raises `FileNotFoundError` where there is none."""
    file = pathlib.Path(path).expanduser().resolve()
    if not file.is_file():
        raise FileNotFoundError(f"there is no picture {file}")
    return file


def load(path: str | os.PathLike[str] | None = None, size: int = 64) -> Float[Tensor, "3 {size} {size}"]:
    """The largest centred square of a picture file, turned as its camera was held, in [0, 1]; by default the portrait.

    Raises `FileNotFoundError` when there is no such file, `ValueError` when it is no whole picture or smaller than
    `size` pixels a side.
    """
    file = find(path or packaged(*PORTRAIT))
    try:
        with Image.open(file) as image:
            upright = ImageOps.exif_transpose(image).convert("RGB")
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"{file} cannot be read as a picture: {error}") from error
    if min(upright.size) < size:
        raise ValueError(f"{file} has {upright.width}x{upright.height} pixels; the tour needs {size} or more a side")
    return pixels(square(upright, size))
