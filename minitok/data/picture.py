"""One picture for the tour: the reader's own, or a portrait that no house model has learnt from.

What: Rear Admiral Grace Hopper, who wrote the first compiler; a photograph of 512x600 pixels (width x height).
Licence: public domain (United States Navy). It comes inside matplotlib; nothing is downloaded.
URL: https://matplotlib.org/stable/gallery/images_contours_and_fields/image_demo.html
"""

import os
import pathlib
import warnings

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image
from PIL.ImageFile import ImageFile
from PIL.TiffImagePlugin import TiffImageFile
from torch import Tensor

from minitok import files
from minitok.data import packaged, pixels, square

PORTRAIT = ("matplotlib", "mpl-data", "sample_data", "grace_hopper.jpg")
ORIENTATION, BITS, PHOTOMETRIC = 274, 258, 262  # tags of EXIF and of TIFF
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
WHITES = {"I": (255, 2**16 - 1, 2**31 - 1), "F": (1, 255, 2**16 - 1)}


def find(path: str | os.PathLike[str]) -> pathlib.Path:
    """The absolute path of a picture file; `~` is expanded.

    Raises `FileNotFoundError` where there is none, `ValueError` for a folder or a name that no file can have.
    """
    file = files.expanded(path)
    try:
        file = file.resolve()
        if file.is_dir():
            raise ValueError(f"{file} is a folder: name a picture in it")
        if not file.is_file():
            raise FileNotFoundError(f"there is no picture {file}")
    except (OSError, RuntimeError) as error:  # too long a name, a circle of links
        if isinstance(error, FileNotFoundError):
            raise
        raise ValueError(f"{file} can be no picture: {error}") from error
    return file


def load(path: str | os.PathLike[str] | None = None, size: int = 64) -> Float[Tensor, "3 {size} {size}"]:
    """The largest centred square of a picture file, turned as its camera was held, in [0, 1]; by default the portrait.

    Whatever Pillow opens is taken: of several frames the first, transparency laid on white, numbers of 16 bits divided
    by their own white. Numbers of 32 bits say nothing of their white: it is the least of 255, 65,535 and 2^31 - 1 that
    none exceeds (of 1, 255 and 65,535 where they are floats).

    Raises `FileNotFoundError` when there is no such file, `ValueError` that names it when it is no whole picture,
    smaller than `size` pixels a side, larger than Pillow holds for harmless, or when its numbers are below 0 or not
    finite.
    """
    file = find(path or packaged(*PORTRAIT))
    try:
        upright = _upright(file)
    except Exception as error:  # beside OSError, Pillow lets out struct.error, TypeError, AttributeError and others
        raise ValueError(f"{file} cannot be read as a picture: {str(error) or type(error).__name__}") from error
    if min(upright.size) < size:
        raise ValueError(f"{file} has {upright.width}x{upright.height} pixels; the tour needs {size} or more a side")
    return pixels(square(upright, size))


def _upright(file: pathlib.Path) -> Image.Image:
    """The first picture of a file, in RGB, turned by its EXIF orientation."""
    # Pillow warns of damaged metadata and of many pixels; neither says anything about the picture.
    with warnings.catch_warnings(action="ignore"), Image.open(file) as image:
        _deepen_clear(image)
        image.load()
        plain, turn = _on_white(image), TURNS.get(_orientation(image))
    return plain if turn is None else plain.transpose(turn)


def _deepen_clear(image: ImageFile) -> None:
    """Brings the clear colour of a PNG to 8 bits a channel, as Pillow brings its pixels but not this colour."""
    clear, packed = image.info.get("transparency"), image.tile[0][3] if image.tile else None
    if isinstance(clear, int) and packed in ("L;2", "L;4"):
        image.info["transparency"] = clear * {"L;2": 85, "L;4": 17}[packed]
    elif isinstance(clear, tuple) and packed == "RGB;16B":
        image.info["transparency"] = tuple(value >> 8 for value in clear)


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation, and nothing else of EXIF; 1, which is upright, where it is missing or cannot be read."""
    try:
        return int(image.getexif().get(ORIENTATION, 1))
    except Exception:  # as above: damaged EXIF makes Pillow raise anything, and the pixels are whole
        return 1


def _on_white(image: Image.Image) -> Image.Image:
    """A picture of any mode in RGB, its transparency laid on white."""
    if image.mode[0] in WHITES:
        return Image.fromarray(_eight_bits(image)).convert("RGB")
    shown = image.convert("LA") if image.mode == "La" else image
    if not shown.has_transparency_data:
        return shown.convert("RGB")
    white = Image.new("RGBA", shown.size, "white")
    return Image.alpha_composite(white, shown.convert("RGBA")).convert("RGB")


def _eight_bits(image: Image.Image) -> UInt8[np.ndarray, "H W"]:
    """Gray of 12, 16 or 32 bits (the modes that begin with I or F) in 8 bits."""
    values, clear = np.asarray(image).astype(np.float64), image.info.get("transparency")
    tags = image.tag_v2 if isinstance(image, TiffImageFile) else {}
    if not (np.isfinite(values).all() and values.min() >= 0):
        raise ValueError("it holds numbers that are below 0 or not finite")
    whites = WHITES[image.mode[0]]
    if image.mode.startswith("I;"):
        whites = (2 ** tags.get(BITS, (16,))[0] - 1,)
    elif image.format == "PPM" and image.mode == "I":
        whites = (2**16 - 1,)
    white = next((white for white in whites if values.max() <= white), None)
    if white is None:
        raise ValueError(f"its numbers reach {values.max():g}, and no white above {whites[-1]:,} is known")
    gray = values / white
    gray = 1 - gray if tags.get(PHOTOMETRIC) == 0 else gray
    return np.rint(255 * np.where(values == clear, 1, gray)).astype(np.uint8)
