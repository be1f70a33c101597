"""The vision transformer of the house: a convolutional stem, a CLS token, the house Transformer, a class head."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from minitok.nn import Layer, Reduces, Shape, Transformer


class ViT(nn.Module):
    """A vision transformer: a convolutional stem, a CLS token before the patch tokens, learnt positions, a class head.

    The stem's three convolutions have stride 2, 2 and 1 for a patch of 4: one token a patch, with a view of its rim.
    """

    def __init__(self, shape: Shape, size: int = 64, classes: int = 10) -> None:
        super().__init__()
        if size < 4 or size % 4:
            raise ValueError(f"size={size} is not a multiple of the patch, 4")
        c, self.size = shape.width, size
        self.stem = nn.Sequential(
            nn.Conv2d(3, c // 4, 3, 2, 1), nn.GELU(), nn.Conv2d(c // 4, c // 2, 3, 2, 1), nn.GELU(),
            nn.Conv2d(c // 2, c, 3, 1, 1),
        )  # fmt: skip
        self.cls = nn.Parameter(torch.randn(1, 1, c) * 0.02)
        self.position = nn.Parameter(torch.randn(1, 1 + (size // 4) ** 2, c) * 0.02)
        self.body, self.head = Transformer(shape), nn.Linear(c, classes)

    def embed(self, images: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b n c"]:
        """CLS and the patches as the first layer reads them. Raises `ValueError` for images of another size."""
        if images.shape[2:] != (self.size, self.size):
            raise ValueError(f"images of {tuple(images.shape[2:])} came, expected {(self.size, self.size)}")
        x = self.stem((images * 2 - 1).to(self.cls.dtype)).flatten(2).transpose(1, 2)
        return torch.cat([self.cls.expand(len(x), -1, -1), x], dim=1) + self.position

    def tokens(
        self,
        images: Float[Tensor, "b 3 H W"],
        on_layer: Callable[[Layer], Reduces | None] | None = None,
        after_layer: Callable[[int, Tensor], Tensor] | None = None,
    ) -> Float[Tensor, "b k c"]:
        """The normed output tokens, CLS first; the CLS features are `tokens(images)[:, 0]`.

        Images of any floating type are read in the type of the weights. `on_layer` and `after_layer` as in
        `Transformer`.
        """
        return self.body(self.embed(images), "full", on_layer=on_layer, after_layer=after_layer)

    def forward(
        self,
        images: Float[Tensor, "b 3 H W"],
        on_layer: Callable[[Layer], Reduces | None] | None = None,
    ) -> Float[Tensor, "b classes"]:
        """Class logits from the CLS token."""
        return self.head(self.tokens(images, on_layer)[:, 0])
