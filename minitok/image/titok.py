"""TiTok: an image as a short sequence of tokens that have no place in it.

Yu, Weber, Deng, Shen, Cremers, Chen: An Image is Worth 32 Tokens for Reconstruction and Generation, 2024,
arXiv 2406.07550.

Mechanism: a Transformer reads the patches P of an image together with n learnt latent tokens L; only the latents are
kept, projected to a low width and quantized, `Z = Enc(P + L)[latents]`. A second Transformer reads the quantized
latents together with one learnt mask token a patch, M, and predicts the pixels at those,
`image = Dec(Quant(Z) + M)[masks]` (+ joins sequences). A token may describe any part of the image, so n need not grow
with the image's area.
Differs from the paper: finite scalar quantization with as many codes, 4,096, in the place of an l2-normalised codebook
of width 12, which needs care at our size to be used; pixels are learnt at once, by the error's logarithm, with no first
stage that predicts another tokenizer's codes, and without perceptual and adversarial losses; two small convolutions
smooth the patches' seams, where the released code has one (and the paper's first models another tokenizer's decoder);
the house's Transformer, without a CLS token.
Notebook: notebooks/02_image/01_titok.ipynb
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from minitok.image._common import Tokens, check_images, check_tokens, unpatch
from minitok.nn import Shape, Transformer
from minitok.quantize.fsq import FSQ


@dataclass(frozen=True)
class Sizes:
    """The sizes of a tokenizer: images, patches, tokens, and those of each of its two Transformers."""

    size: int = 64
    patch: int = 8
    tokens: int = 64
    width: int = 96
    layers: int = 4
    heads: int = 3
    channels: int = 3

    def __post_init__(self) -> None:
        if self.patch < 1 or self.size < 1 or self.size % self.patch:
            raise ValueError(f"size={self.size} is not a multiple of patch={self.patch}")
        if self.tokens < 1 or self.layers < 1:
            raise ValueError(f"tokens={self.tokens} and layers={self.layers} came, expected at least 1 of each")

    @property
    def patches(self) -> int:
        """The number of patches."""
        return (self.size // self.patch) ** 2

    def body(self) -> Transformer:
        """A Transformer of these sizes, whose tokens know their place by what is added to them."""
        body = Transformer(Shape(width=self.width, layers=self.layers, heads=self.heads, pairing=None))
        for name, weight in body.named_parameters():
            if weight.dim() == 2 and ".out." not in name:
                # With a standard deviation of 0.02 attention starts out uniform at this width: all latents are alike.
                nn.init.normal_(weight, std=self.width**-0.5)
        return body


class Rebuilt(NamedTuple):
    """What `forward` returns: images to compare (not clamped), codes, and the quantizer's loss."""

    images: Float[Tensor, "b 3 H W"]
    codes: Int[Tensor, "b n g"]
    loss: Float[Tensor, ""]


class Encoder(nn.Module):
    """Patches and latent tokens in, one vector of width d a latent token out."""

    def __init__(self, sizes: Sizes, d: int) -> None:
        super().__init__()
        c = sizes.width
        self.patches = nn.Conv2d(sizes.channels, c, sizes.patch, sizes.patch)
        self.position = nn.Parameter(torch.randn(sizes.patches, c) * 0.02)
        self.latents = nn.Parameter(torch.randn(sizes.tokens, c) * 0.02)
        self.body, self.out = sizes.body(), nn.Linear(c, d)

    def forward(self, x: Float[Tensor, "b c H W"], mask: str | Tensor = "full") -> Float[Tensor, "b n d"]:
        """`mask` says what sees what in the sequence of all patches and then all latents."""
        patches = self.patches(x.to(self.patches.weight.dtype)).flatten(2).transpose(1, 2) + self.position
        latents = self.latents.expand(len(x), -1, -1)
        joined = self.body(torch.cat([patches, latents], dim=1), mask)
        return self.out(joined[:, patches.shape[1] :])


class Decoder(nn.Module):
    """Quantized latents and mask tokens in, pixels at the mask tokens out."""

    def __init__(self, sizes: Sizes, d: int) -> None:
        super().__init__()
        c, pixels = sizes.width, sizes.channels
        self.enter, self.patch = nn.Linear(d, c), sizes.patch
        self.place = nn.Parameter(torch.randn(sizes.tokens, c) * 0.02)
        self.mask = nn.Parameter(torch.randn(c) * 0.02)
        self.position = nn.Parameter(torch.randn(sizes.patches, c) * 0.02)
        self.body, self.out = sizes.body(), nn.Linear(c, pixels * sizes.patch**2)
        self.smooth = nn.Sequential(nn.Conv2d(pixels, 16, 3, 1, 1), nn.SiLU(), nn.Conv2d(16, pixels, 3, 1, 1))

    def forward(self, values: Float[Tensor, "b k d"], mask: str | Tensor = "full") -> Float[Tensor, "b c H W"]:
        """Takes any number of latents; `mask` says what sees what in the sequence of all mask tokens, then latents."""
        latents = self.enter(values.to(self.enter.weight.dtype)) + self.place[: values.shape[1]]
        masks = (self.mask + self.position).expand(len(values), -1, -1)
        joined = self.body(torch.cat([masks, latents], dim=1), mask)
        image = unpatch(self.out(joined[:, : masks.shape[1]]), self.patch)
        return image + self.smooth(image)


class TiTok(nn.Module):
    """`encode(images) -> Tokens`, `decode(tokens) -> images`; the quantizer may be any of chapter 1.

    In half precision the Transformers compute in it; what is quantized and what is painted is float32.
    """

    def __init__(self, sizes: Sizes | None = None, quantizer: nn.Module | None = None) -> None:
        super().__init__()
        self.sizes = sizes or Sizes()
        self.quantizer = quantizer or FSQ((8, 8, 8, 8))
        d = int(self.quantizer.d)  # pyright: ignore[reportArgumentType]
        self.encoder, self.decoder = Encoder(self.sizes, d), Decoder(self.sizes, d)

    @property
    def bits(self) -> float:
        """Bits a token."""
        return float(self.quantizer.bits)  # pyright: ignore[reportArgumentType]

    def latents(self, images: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b n d"]:
        """What is quantized."""
        return self.encoder(images * 2 - 1).float()

    def paint(self, values: Float[Tensor, "b k d"], mask: str | Tensor = "full") -> Float[Tensor, "b 3 H W"]:
        """Images from quantized (or any other) values; not clamped, so that gradients pass."""
        return (self.decoder(values, mask).float() + 1) / 2

    def encode(self, images: Float[Tensor, "b 3 H W"]) -> Tokens:
        """The tokens of images in [0, 1]."""
        check_images(images, self.sizes.size)
        return Tokens(self.quantizer.encode(self.latents(images)), (self.sizes.tokens,))  # pyright: ignore[reportCallIssue]

    def decode(self, tokens: Tokens) -> Float[Tensor, "b 3 H W"]:
        """Images in [0, 1]. Takes a prefix too, for which TiTok, unlike its heirs, was never trained."""
        check_tokens(tokens, self.sizes.tokens)
        return self.paint(self.quantizer.decode(tokens.codes)).clamp(0, 1)  # pyright: ignore[reportCallIssue]

    def forward(self, images: Float[Tensor, "b 3 H W"]) -> Rebuilt:
        """Images through the quantizer, with straight-through gradients."""
        values, codes, loss = self.quantizer(self.latents(images))
        return Rebuilt(self.paint(values), codes, loss)
