"""Finite scalar quantization (FSQ).

Mentzer, Minnen, Agustsson, Tschannen: Finite Scalar Quantization: VQ-VAE Made Simple, 2023, arXiv 2309.15505.

Mechanism: no codebook is learnt. Channel i is squashed into an interval that holds `levels[i]` whole numbers and
rounded to the nearest of them: `z_q = round(f(z))`, `f(z) = tanh(z + shift) * half - offset` with
`half = (L - 1)(1 + eps) / 2`, `offset = 1/2` for even L (so that the L whole numbers lie evenly around zero) and
`shift = atanh(offset / half)` (so that f(0) = 0). The code is the mixed-radix number of the channels' levels, the
first channel the least significant. All products of levels exist; training needs no loss of its own.
Differs from the paper: its listing has `(L - 1)(1 - eps) / 2` and `shift = tan(offset / half)`, by which f(0) is only
nearly 0 and two levels have none; of codes of four channels one in a hundred comes out otherwise.
Notebook: notebooks/01_quantize/03_fsq.ipynb (planned)
"""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from minitok.quantize._common import Quantized, check_codes, check_vectors, straight_through


def bound(z: Float[Tensor, "... d"], levels: Tensor, eps: float = 1e-3) -> Float[Tensor, "... d"]:
    """Squashes each channel so that rounding gives `levels` whole numbers, -(L // 2) to (L - 1) // 2 (section 3.1)."""
    half = (levels - 1) * (1 + eps) / 2
    offset = (levels % 2 == 0).to(z.dtype) / 2
    shift = (offset / half).atanh()
    return (z + shift).tanh() * half - offset


class FSQ(nn.Module):
    """d channels, `levels[i]` values each; `prod(levels)` codes."""

    def __init__(self, levels: tuple[int, ...] = (8, 8, 8, 8)) -> None:
        super().__init__()
        # Beyond 1000 levels `bound`, which is wider by eps, would round to one more.
        if not levels or min(levels) < 2 or max(levels) > 1000:
            raise ValueError(f"levels={levels} came, expected at least one channel, each of 2 to 1000 levels")
        self.d, self.K = len(levels), math.prod(levels)
        self.levels: Tensor
        self.radix: Tensor
        self.register_buffer("levels", torch.tensor(levels), persistent=False)
        self.register_buffer("radix", self.levels.cumprod(0) // self.levels, persistent=False)

    @property
    def bits(self) -> float:
        """Bits a token: log2 of the number of codes."""
        return math.log2(self.K)

    def forward(self, z: Float[Tensor, "b n d"]) -> Quantized:
        """Values in [-1, 1] with straight-through gradients, codes, and a loss of zero."""
        check_vectors(z, self.d)
        bounded = bound(z, self.levels)
        whole = straight_through(bounded, bounded.round())
        half = self.levels // 2
        codes = ((whole.detach().round().long() + half) * self.radix).sum(-1, keepdim=True)
        return Quantized(whole / half, codes, z.new_zeros(()))

    def encode(self, z: Float[Tensor, "b n d"]) -> Int[Tensor, "b n 1"]:
        """The code of each vector."""
        return self.forward(z).codes

    def decode(self, codes: Int[Tensor, "b n 1"]) -> Float[Tensor, "b n d"]:
        """The values of each code, in [-1, 1]."""
        check_codes(codes, 1, self.K)
        return ((codes // self.radix) % self.levels - self.levels // 2) / (self.levels // 2)
