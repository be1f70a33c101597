"""Pages of handwritten digits in lines, some of it blank: what a document is to a reader of tokens.

What: scikit-learn's digits of 8x8 pixels on a grid of cells, light on dark, and which cells hold one. A page has one
block of lines, somewhere, whose lines end where they like.
How many: as many as asked for. Licence: that of `minitok.data.digits`, CC BY 4.0.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from minitok.data import digits

PAPER, INK = 0.2, 0.8


@dataclass(frozen=True)
class Pages:
    """Pages, and which cells of 8x8 pixels hold a digit."""

    images: Float[Tensor, "n 3 H W"]
    text: Bool[Tensor, "n rows columns"]


def render(n: int, *, cells: int = 16, seed: int = 0) -> Pages:
    """n pages of `cells` x `cells` digits or blanks, from the test digits: 128x128 pixels by default.

    Raises `ValueError` for fewer than 4 cells on a side.
    """
    if cells < 4:
        raise ValueError(f"cells={cells} came, expected at least 4")
    generator = torch.Generator().manual_seed(seed)

    def lots(low: int, high: int, *shape: int) -> Tensor:
        return torch.randint(low, high, (n, *shape), generator=generator)

    place = torch.arange(cells)
    top, left = lots(0, cells // 2, 1), lots(0, cells // 2, 1, 1)
    rows = (place >= top) & (place < top + lots(3, cells, 1))
    text = rows[:, :, None] & (place >= left) & (place < left + lots(2, cells + 1, cells, 1))
    known = digits.load("test").images[:, 0]
    ink = known[lots(0, len(known), cells, cells)] * text[..., None, None]
    page = PAPER + (INK - PAPER) * ink.transpose(2, 3).reshape(n, 1, 8 * cells, 8 * cells)
    return Pages(page.expand(-1, 3, -1, -1).contiguous(), text)
