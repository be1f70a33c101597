"""Vector quantization (VQ), as in the VQ-VAE.

van den Oord, Vinyals, Kavukcuoglu: Neural Discrete Representation Learning, 2017, arXiv 1711.00937.

Mechanism: a codebook e of K learnt vectors. A vector z is replaced by the nearest of them (equations 1 and 2),
`k = argmin_j |z - e_j|`, `z_q = e_k`, and its code k is all that is stored. The argmin has no gradient, so the
decoder's gradient is copied from z_q to z as if nothing had happened between them (straight-through). The loss,
`|sg[z] - e_k|^2 + beta |z - sg[e_k]|^2` (equation 3), moves codes to the vectors that chose them and holds vectors
near their codes (sg stops the gradient).
Differs from the paper: losses are means over elements, where the paper writes sums; the codebook can start from data
(`start_from`), where the paper does not say how it starts. The paper's other way to learn codes, moving averages
(appendix A.1), is an exercise of the notebook.
Notebook: notebooks/01_quantize/01_vq.ipynb
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from minitok.checks import check_finite
from minitok.quantize._common import Quantized, check_codes, check_vectors, straight_through, wide


def centre(codebook: Float[Tensor, "K d"]) -> Float[Tensor, "d"]:
    """The mean of the codes, rounded to 1/128 of the power of two that their largest entry reaches.

    >>> centre(torch.tensor([[100.1, 0.0], [100.2, 0.0]]))
    tensor([100.,   0.])

    Distances do not change when it is taken off vectors and codes; products become small, so that float32 holds their
    digits. Rounded, since small whole numbers, and half precision far from zero, then lose nothing by the subtraction.
    """
    largest = codebook.abs().max().clamp(min=torch.finfo(codebook.dtype).tiny)
    step = largest.log2().floor().exp2() / 128
    return (codebook.mean(0) / step).round() * step


def nearest(z: Float[Tensor, "b n d"], codebook: Float[Tensor, "K d"]) -> Int[Tensor, "b n"]:
    """The row of the codebook that is nearest to each vector; of two equally near ones the first.

    >>> nearest(torch.tensor([[[0.2, 0.0], [0.9, 1.2]]]), torch.tensor([[0.0, 0.0], [1.0, 1.0]])).tolist()
    [[0, 1]]

    `|z - e|^2 = |z|^2 - 2 z.e + |e|^2`, and |z|^2 is the same for every code, so one matrix product decides, in float32
    (half precision takes wrong codes) and from the codebook's `centre` (far from zero the product has no digits left
    for the difference). So a code may come that is farther than the nearest, by at most a millionth of `|z|^2 + |e|^2`
    from that centre; which one, may hang on the other vectors of the batch. Source: equation 1. Raises `ValueError` for
    an empty codebook, NaN, infinity, and codes whose square is infinite.
    """
    if len(codebook) == 0:
        raise ValueError("the codebook is empty: expected at least one row")
    with torch.autocast(z.device.type, enabled=False):
        middle = centre(wide(codebook))
        z = wide(z) - middle
        codebook = (wide(codebook) - middle).to(z.dtype)
        score, code = (codebook.pow(2).sum(-1) - 2 * z @ codebook.T).min(-1)
    check_finite("the distance of z and codebook", score)
    return code


def codebook_loss(
    z: Float[Tensor, "b n d"], z_q: Float[Tensor, "b n d"], commitment: float = 0.25
) -> Float[Tensor, ""]:
    """How far codes are from their vectors (moves the codes) plus `commitment` times the same (moves the vectors).

    >>> codebook_loss(torch.zeros(1, 1, 2), torch.ones(1, 1, 2), commitment=0.25).item()
    1.25

    Source: the second and third term of equation 3, as means over elements; in float32 for half precision.
    """
    z, z_q = wide(z), wide(z_q)
    return F.mse_loss(z_q, z.detach()) + commitment * F.mse_loss(z, z_q.detach())


class VQ(nn.Module):
    """A codebook of K vectors of width d; one code a vector."""

    def __init__(self, d: int = 8, K: int = 512, commitment: float = 0.25) -> None:
        super().__init__()
        if d < 1 or K < 1:
            raise ValueError(f"d={d} and K={K} came, expected at least 1 of each")
        if not 0 <= commitment < math.inf:
            raise ValueError(f"commitment={commitment} came, expected a finite number from 0")
        self.d, self.K, self.commitment = d, K, commitment
        self.codebook = nn.Parameter(torch.randn(K, d) / math.sqrt(d))

    @property
    def bits(self) -> float:
        """Bits a token: log2 K."""
        return math.log2(self.K)

    @torch.no_grad()
    def start_from(self, z: Float[Tensor, "b n d"]) -> None:
        """Lays the codebook on K vectors picked at random from z, so that no code starts far from the data.

        Raises `ValueError` when z holds fewer than K vectors.
        """
        check_vectors(z, self.d)
        vectors = z.flatten(0, 1)
        if len(vectors) < self.K:
            raise ValueError(f"z holds {len(vectors)} vectors, expected at least K={self.K}")
        self.codebook.copy_(vectors[torch.randperm(len(vectors), device=z.device)[: self.K]])

    def encode(self, z: Float[Tensor, "b n d"]) -> Int[Tensor, "b n 1"]:
        """The code of each vector, 0 to K - 1."""
        check_vectors(z, self.d)
        return nearest(z, self.codebook)[..., None]

    def decode(self, codes: Int[Tensor, "b n 1"]) -> Float[Tensor, "b n d"]:
        """The vector of each code."""
        check_codes(codes, 1, self.K)
        return self.codebook[codes[..., 0].long()]

    def forward(self, z: Float[Tensor, "b n d"]) -> Quantized:
        """Nearest vectors with straight-through gradients, their codes, and the codebook's loss."""
        codes = self.encode(z)
        z_q = self.codebook[codes[..., 0]]
        return Quantized(straight_through(z, z_q), codes, codebook_loss(z, z_q, self.commitment))
