"""Photographs that come inside scikit-image and scikit-learn: 11 in colour, 11 gray. Nothing is downloaded.

What: 9 colour photographs of scikit-image (astronaut 512x512, chelsea 300x451, coffee 400x600,
hubble_deep_field 872x1000, immunohistochemistry 512x512, motorcycle_left and motorcycle_right 500x741, retina
1411x1411, rocket 427x640) and 2 of scikit-learn (china, flower: 427x640), as height x width; 11 gray ones of
scikit-image.
Licence, by image:
  public domain: astronaut, hubble_deep_field (NASA), rocket (SpaceX), clock (Stefan van der Walt), text;
  CC0: chelsea (Stefan van der Walt), coffee (Rachel Michetti), retina (Mikael Häggström), camera (Lav
    Varshney), cell (Paul Müller and others), microaneurysms (Andreas Maier), brick and gravel (CC0Textures),
    grass (linolafett);
  no known restrictions: immunohistochemistry (CMMI), coins (Brooklyn Museum);
  CC BY 2.0: china (danielbuechele), flower (vultilion), both on Flickr;
  none stated by scikit-image: moon, page, and the motorcycle pair, which is a quarter-size view of the
    Middlebury stereo benchmark (cite Scharstein and others, GCPR 2014).
URL: https://scikit-image.org/docs/stable/api/skimage.data.html,
https://scikit-learn.org/stable/modules/generated/sklearn.datasets.load_sample_images.html
"""

import numpy as np
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from minitok.data import check_choice, packaged, pixels

_SKIMAGE, _SKLEARN = ("skimage", "data"), ("sklearn", "datasets", "images")

_COLOUR = {
    "astronaut": (*_SKIMAGE, "astronaut.png"),
    "chelsea": (*_SKIMAGE, "chelsea.png"),
    "china": (*_SKLEARN, "china.jpg"),
    "coffee": (*_SKIMAGE, "coffee.png"),
    "flower": (*_SKLEARN, "flower.jpg"),
    "hubble_deep_field": (*_SKIMAGE, "hubble_deep_field.jpg"),
    "immunohistochemistry": (*_SKIMAGE, "ihc.png"),
    "motorcycle_left": (*_SKIMAGE, "motorcycle_left.png"),
    "motorcycle_right": (*_SKIMAGE, "motorcycle_right.png"),
    "retina": (*_SKIMAGE, "retina.jpg"),
    "rocket": (*_SKIMAGE, "rocket.jpg"),
}

_GRAY = {
    "brick": (*_SKIMAGE, "brick.png"),
    "camera": (*_SKIMAGE, "camera.png"),
    "cell": (*_SKIMAGE, "cell.png"),
    "clock": (*_SKIMAGE, "clock_motion.png"),
    "coins": (*_SKIMAGE, "coins.png"),
    "grass": (*_SKIMAGE, "grass.png"),
    "gravel": (*_SKIMAGE, "gravel.png"),
    "microaneurysms": (*_SKIMAGE, "microaneurysms.png"),
    "moon": (*_SKIMAGE, "moon.png"),
    "page": (*_SKIMAGE, "page.png"),
    "text": (*_SKIMAGE, "text.png"),
}


def names() -> tuple[str, ...]:
    """The names of the colour photographs, sorted."""
    return tuple(_COLOUR)


def gray_names() -> tuple[str, ...]:
    """The names of the gray photographs, sorted."""
    return tuple(_GRAY)


def _colour(name: str) -> Image.Image:
    check_choice("name", name, names())
    with Image.open(packaged(*_COLOUR[name])) as image:
        return image.convert("RGB")


def load(name: str) -> Float[Tensor, "3 H W"]:
    """One colour photograph in [0, 1] at its own size; `load("coffee")` is 3x400x600."""
    return pixels(np.asarray(_colour(name)))


def load_gray(name: str) -> Float[Tensor, "1 H W"]:
    """One gray photograph in [0, 1] at its own size; `load_gray("coins")` is 1x303x384."""
    check_choice("name", name, gray_names())
    with Image.open(packaged(*_GRAY[name])) as image:
        return pixels(np.asarray(image.convert("L"))[..., None])


def crops(n: int, size: int, seed: int = 0) -> Float[Tensor, "n 3 {size} {size}"]:
    """`n` random square crops in [0, 1] of all colour photographs, resized (antialiased) to `size` pixels.

    Each takes one photograph at random, a side log-uniform between `size` and that photograph's short side,
    and a place inside it. The same seed gives the same crops. `size` is at most 300, the shortest
    side of all.
    """
    photographs = [_colour(name) for name in names()]
    shortest = min(min(image.size) for image in photographs)
    if not 1 <= size <= shortest:
        raise ValueError(f"size={size} is not between 1 and {shortest}, the shortest side of the photographs")
    if n < 0:
        raise ValueError(f"n={n} is negative: give the number of crops")
    # RandomState's streams are frozen: the crops stay the same over all versions of NumPy
    random = np.random.RandomState(seed)
    out = np.empty((n, size, size, 3), dtype=np.uint8)
    for i in range(n):
        image = photographs[random.randint(len(photographs))]
        out[i] = _crop(image, size, *random.uniform(size=3))
    return pixels(out)


def _crop(image: Image.Image, size: int, scale: float, across: float, down: float) -> np.ndarray:
    """The crop whose side and place are given by three numbers in [0, 1]."""
    side = round(size * (min(image.size) / size) ** scale)
    left, top = round(across * (image.width - side)), round(down * (image.height - side))
    box = (left, top, left + side, top + side)
    # reducing_gap halves large crops by whole factors first: the same look at a fraction of the time
    return np.asarray(image.resize((size, size), Image.Resampling.BICUBIC, box, reducing_gap=2.0))
