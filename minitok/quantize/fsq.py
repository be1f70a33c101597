"""Finite scalar quantization (FSQ).

Mentzer, Minnen, Agustsson, Tschannen: Finite Scalar Quantization: VQ-VAE Made Simple, 2023, arXiv 2309.15505.

Mechanism: no codebook is learnt. Channel i is squashed into an interval that holds `levels[i]` whole numbers and
rounded to the nearest of them (section 3.1; in full in the listing of appendix A.1): `z_q = round(f(z)) / (L // 2)`,
`f(z) = tanh(z + shift) * half - offset`, where `half = (L - 1)(1 + eps) / 2`, `offset = 1/2` for even L, 0 for odd
(L whole numbers lie evenly around -offset), and `shift = atanh(offset / half)`, so that f(0) = 0. The gradient of the
rounding is taken as 1. The code is the mixed-radix number of the channels' levels, the first channel the least
significant. All products of levels exist; training needs no loss of its own.
Differs from the paper: its listing has `(L - 1)(1 - eps) / 2` and `shift = tan(offset / half)`, by which f(0) is not
quite 0 (for two levels, where atanh has no value, -0.04). One or two codes in a hundred come out otherwise.
Notebook: notebooks/01_quantize/03_fsq.ipynb
"""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from minitok.quantize._common import Quantized, WithoutWeights, check_codes, check_vectors, straight_through, wide


def bound(z: Float[Tensor, "... d"], levels: Tensor, eps: float = 1e-3) -> Float[Tensor, "... d"]:
    """Squashes each channel so that rounding gives `levels` whole numbers, -(L // 2) to (L - 1) // 2.

    >>> bound(torch.tensor([[-9.0], [0.0], [0.5], [9.0]]), torch.tensor([5])).round().flatten().tolist()
    [-2.0, 0.0, 1.0, 2.0]

    `eps` widens the interval by so much, which gives two levels a finite shift. Source: section 3.1, appendix A.1.
    """
    half = (levels - 1) * (1 + eps) / 2
    offset = (levels % 2 == 0).to(z.dtype) / 2
    shift = (offset / half).atanh()
    return (z + shift).tanh() * half - offset


class FSQ(WithoutWeights):
    """d channels, `levels[i]` values each; `prod(levels)` codes."""

    def __init__(self, levels: tuple[int, ...] = (8, 8, 8, 8)) -> None:
        super().__init__()
        # Beyond 1000 levels `bound`, which is wider by eps, would round to one more.
        if not levels or min(levels) < 2 or max(levels) > 1000:
            raise ValueError(f"levels={levels} came, expected at least one channel, each of 2 to 1000 levels")
        self.d, self.K = len(levels), math.prod(levels)
        if self.K > 2**63:
            raise ValueError(f"levels={levels} make {self.K} codes, expected at most 2^63: a code has 64 bits")
        self.levels: Tensor
        self.radix: Tensor
        self.register_buffer("levels", torch.tensor(levels), persistent=False)
        radix = [math.prod(levels[:i]) for i in range(self.d)]
        self.register_buffer("radix", torch.tensor(radix), persistent=False)

    @property
    def bits(self) -> float:
        """Bits a token: log2 of the number of codes."""
        return math.log2(self.K)

    def forward(self, z: Float[Tensor, "b n d"]) -> Quantized:
        """Values in [-1, 1] with straight-through gradients, codes, and a loss of zero."""
        check_vectors(z, self.d)
        bounded = bound(z, self.levels)
        whole, half = straight_through(bounded, bounded.round()), self.levels // 2
        codes = ((whole.detach().long() + half) * self.radix).sum(-1, keepdim=True)
        return Quantized(self._scaled(whole), codes, wide(z).new_zeros(()))

    def encode(self, z: Float[Tensor, "b n d"]) -> Int[Tensor, "b n 1"]:
        """The code of each vector."""
        return self.forward(z).codes

    def decode(self, codes: Int[Tensor, "b n 1"]) -> Float[Tensor, "b n d"]:
        """The values of each code, in [-1, 1]."""
        check_codes(codes, 1, self.K)
        return self._scaled((codes // self.radix) % self.levels - self.levels // 2)

    def _scaled(self, whole: Tensor) -> Tensor:
        """Whole numbers as values in [-1, 1], of the module's dtype."""
        return (whole.to(wide(self.unit).dtype) / (self.levels // 2)).to(self.unit.dtype)
