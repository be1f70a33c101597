"""Lookup-free quantization (LFQ), as in MAGVIT-v2.

Yu et al.: Language Model Beats Diffusion -- Tokenizer is Key to Visual Generation, 2023, arXiv 2310.05737.

Mechanism (section 3.1): no codebook. Each of d channels keeps its sign, `q(z_i) = -1{z_i <= 0} + 1{z_i > 0}`, with a
straight-through gradient; the code is `sum_i 2^(i-1) 1{z_i > 0}`, the first channel the least significant bit: K = 2^d
codes. The loss, `entropy * (E[H(q(z))] - H[E[q(z)]]) + commitment * |z - sg[q(z)]|^2`, wants each vector to be sure of
its code and all codes to be equally frequent. There q(z) is a softmax over all codes c of `-|z - c|^2 / temperature`.
It is d independent bits, `p(bit i) = sigmoid(4 z_i / temperature)`, so the first entropy is a sum over bits; a mean of
such products is no product, so the second needs all 2^d codes.
Differs from the paper: the softmax, the commitment and the weights are those of a public reimplementation,
Open-MAGVIT2; its temperature of 0.01, by which bits further than 0.02 from 0 hardly get a gradient, is not the default.
For large d the paper takes the second entropy in groups of bits; we refuse. Entropies are in nats.
Notebook: notebooks/01_quantize/04_lfq.ipynb
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from minitok.quantize._common import Quantized, WithoutWeights, check_codes, check_vectors, straight_through, wide


def code_probabilities(p: Float[Tensor, "n d"]) -> Float[Tensor, "n K"]:
    """The probability of each of the 2^d codes of d independent bits, where bit i is 1 with probability `p[:, i]`.

    >>> code_probabilities(torch.tensor([[1.0, 0.25]]))
    tensor([[0.0000, 0.7500, 0.0000, 0.2500]])

    The first bit is the least significant, so the columns are codes 0 to 2^d - 1.
    """
    q = p.new_ones(len(p), 1)
    for bit in p.unbind(1):
        q = torch.cat([q * (1 - bit[:, None]), q * bit[:, None]], 1)
    return q


def mean_code_probabilities(p: Float[Tensor, "n d"]) -> Float[Tensor, "K"]:
    """The mean of `code_probabilities(p)` over its n rows, without holding all n x 2^d of them.

    >>> mean_code_probabilities(torch.tensor([[0.0, 0.0], [1.0, 1.0]]))
    tensor([0.5000, 0.0000, 0.0000, 0.5000])

    The two halves of the bits are independent in a row: the mean of their products is one matrix product.
    """
    n, d = p.shape
    low, high = code_probabilities(p[:, : d // 2]), code_probabilities(p[:, d // 2 :])
    return (high.T @ low).flatten() / n


def entropies(z: Float[Tensor, "b n d"], temperature: float = 0.3) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """E[H(q(z))], the mean entropy of a vector's code, and H[E[q(z)]], the entropy of the mean, both in nats.

    >>> sure, spread = entropies(torch.tensor([[[9.0, 9.0], [-9.0, 9.0]]]))
    >>> f"{sure:.3f} {spread:.3f}"
    '0.000 0.693'

    The first is d log 2 at most, where all z are 0, and falls with the distance from 0; the second is d log 2 at most,
    where all codes are equally frequent. Exact, in float32: memory n 2^(d/2) + 2^d. Source: section 3.1.
    """
    with torch.autocast(z.device.type, enabled=False):
        logits = 4 * z.float().flatten(0, 1) / temperature
        p = logits.sigmoid()
        sure = (F.softplus(logits) - logits * p).sum(1).mean()
        # At a probability of 0 the logarithm's gradient would be infinite.
        q = mean_code_probabilities(p)
        return sure, -(q * q.clamp(min=torch.finfo(q.dtype).tiny).log()).sum()


class LFQ(WithoutWeights):
    """d channels, one bit each; 2^d codes and no codebook."""

    def __init__(self, d: int = 8, entropy: float = 0.1, commitment: float = 0.25, temperature: float = 0.3) -> None:
        super().__init__()
        if not 1 <= d <= 63:
            raise ValueError(f"d={d} came, expected 1 to 63: a code has 64 bits")
        if not (0 <= entropy < math.inf and 0 <= commitment < math.inf):
            raise ValueError(f"entropy={entropy} and commitment={commitment} came, expected finite numbers from 0")
        if not 0 < temperature < math.inf:
            raise ValueError(f"temperature={temperature} came, expected a finite number above 0")
        if entropy > 0 and d > 18:
            raise ValueError(f"d={d} came with entropy={entropy}, expected at most 18: the loss visits all 2^d codes")
        self.d, self.K, self.entropy, self.commitment, self.temperature = d, 2**d, entropy, commitment, temperature
        self.places: Tensor
        self.register_buffer("places", torch.arange(d), persistent=False)

    @property
    def bits(self) -> int:
        """Bits a token: one a channel."""
        return self.d

    def encode(self, z: Float[Tensor, "b n d"]) -> Int[Tensor, "b n 1"]:
        """The code of each vector, 0 to 2^d - 1: bit i says whether channel i is above 0."""
        check_vectors(z, self.d)
        return ((z > 0).long() << self.places).sum(-1, keepdim=True)

    def decode(self, codes: Int[Tensor, "b n 1"]) -> Float[Tensor, "b n d"]:
        """The signs of each code, -1 or 1."""
        check_codes(codes, 1, self.K)
        return ((codes.long() >> self.places) & 1) * 2 * self.unit - self.unit

    def forward(self, z: Float[Tensor, "b n d"]) -> Quantized:
        """Signs with straight-through gradients, codes, and the entropies' and the commitment's loss."""
        codes = self.encode(z)
        z_q = self.decode(codes)
        loss = self.commitment * F.mse_loss(wide(z), wide(z_q))
        if self.entropy > 0:
            sure, spread = entropies(z, self.temperature)
            loss = loss + self.entropy * (sure - spread)
        return Quantized(straight_through(z, z_q), codes, loss)
