"""What all image tokenizers share: tokens that can be cut to a prefix, and the checks of input."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from minitok.checks import finite, readable


@dataclass(frozen=True)
class Tokens:
    """What `encode` of a tokenizer returns: codes (or values, where nothing is quantized), one row a token.

    `layout` is how the tokens of a whole image lie: `(64,)` a sequence, whose prefixes `tokens[:k]` are coarser
    descriptions of the image, `(16, 16)` a grid in raster order.
    """

    codes: Int[Tensor, "b k g"] | Float[Tensor, "b k g"]
    layout: tuple[int, ...]

    def __len__(self) -> int:
        """The number of tokens an image."""
        return self.codes.shape[1]

    def __getitem__(self, part: slice) -> "Tokens":
        """The first k tokens: `tokens[:k]`, k from 1 to `len(tokens)`.

        Raises `ValueError` for another k, for a part that is no prefix, and for a grid.
        """
        if not isinstance(part, slice) or part.start not in (None, 0) or part.step not in (None, 1):
            raise ValueError(f"tokens[{part}] came, expected a prefix, tokens[:k]")
        if len(self.layout) != 1:
            raise ValueError(f"tokens of layout {self.layout} came: only a sequence has prefixes")
        k = len(self) if part.stop is None else part.stop
        if not 1 <= k <= len(self):
            raise ValueError(f"tokens[:{k}] came, expected 1 to {len(self)} tokens")
        return Tokens(self.codes[:, :k], self.layout)


def check_images(images: Tensor, size: int) -> None:
    """Raises `ValueError` unless images are a floating-point (b, 3, size, size) with values in [0, 1].

    Compiled code looks at no values: that would wait for the GPU.
    """
    if images.dim() != 4 or images.shape[1:] != (3, size, size):
        raise ValueError(f"images of shape {tuple(images.shape)} came, expected (b, 3, {size}, {size})")
    if not images.is_floating_point():
        raise ValueError(f"images of type {images.dtype} came, expected floating point")
    if not readable(images):
        return
    if not finite(images):
        raise ValueError("images hold NaN or infinity")
    if images.numel() and not (images.min() >= 0 and images.max() <= 1):
        raise ValueError(f"images from {images.min():.3g} to {images.max():.3g} came, expected values in [0, 1]")


def check_tokens(tokens: Tokens, n: int) -> None:
    """Raises `ValueError` unless tokens are a sequence of 1 to n tokens of a tokenizer of n."""
    if not isinstance(tokens, Tokens):
        raise ValueError(f"tokens of type {type(tokens).__name__} came, expected Tokens(codes, layout)")
    if tokens.layout != (n,):
        raise ValueError(f"tokens of layout {tokens.layout} came, expected {(n,)}")
    if tokens.codes.dim() != 3 or not 1 <= tokens.codes.shape[1] <= n:
        raise ValueError(f"tokens with codes of shape {tuple(tokens.codes.shape)} came, expected (b, 1 to {n}, groups)")


def unpatch(x: Float[Tensor, "b n cpp"], patch: int) -> Float[Tensor, "b c H W"]:
    """Lays n patches, each the pixels of a square of `patch` times `patch`, out as a square image.

    >>> unpatch(torch.arange(8.0).view(1, 2, 4).repeat_interleave(2, 1), 2)[0, 0].tolist()
    [[0.0, 1.0, 0.0, 1.0], [2.0, 3.0, 2.0, 3.0], [4.0, 5.0, 4.0, 5.0], [6.0, 7.0, 6.0, 7.0]]

    Patches come in raster order; a patch holds its channels one after the other, each in raster order.
    """
    side = int(x.shape[1] ** 0.5)
    return torch.nn.functional.pixel_shuffle(x.transpose(1, 2).unflatten(2, (side, side)), patch)
