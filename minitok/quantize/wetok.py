"""WeTok: group-wise lookup-free quantization (GQ) and a generative decoder.

Zhuang et al.: WeTok: Powerful Discrete Tokenization for High-Fidelity Visual Reconstruction, 2025, arXiv 2508.05599.

Mechanism: the d channels fall into g groups of d' = d / g. Each channel keeps its sign, as in LFQ, and each group has a
code of d' bits. As groups are independent given z, LFQ's first entropy is a sum over groups (equation 6); the second
is replaced by one (equation 8), `sum_k H[E q_k]`, an upper bound: of g 2^d' probabilities, where LFQ visits 2^d. With
g = 1 it is LFQ's loss, with g = d that of independent bits. Generative decoder: noise channels beside the quantized
vectors, at first with weights of zero, and adversarial training, encoder and quantizer frozen: the decoder then samples
details that the codes leave open.
Differs from the paper: weights and temperature are those of our LFQ; the released code takes 0.01, averages over groups
where equation 6 sums, and counts all groups into one mean distribution. It adds adaptive norms, a perceptual loss and
a penalty on the discriminator (LeCam).
Notebook: notebooks/01_quantize/06_wetok.ipynb
"""

import copy
import math

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from minitok.checks import check_finite

# Not `from lfq import LFQ`: a module of this chapter shows one class with `bits`, its own.
from minitok.quantize import lfq
from minitok.quantize._common import Quantized, WithoutWeights, check_codes, check_vectors, straight_through, wide


def group_entropies(
    z: Float[Tensor, "b n d"], groups: int, temperature: float = 0.3
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """The sums over groups of `lfq.entropies`: how unsure vectors are of their codes, and how even the codes are.

    >>> z = torch.tensor([[[9.0, 9.0], [-9.0, -9.0]]])
    >>> [f"{group_entropies(z, groups)[1]:.3f}" for groups in (1, 2)]
    ['0.693', '1.386']

    Two codes, 00 and 11, are log 2 in one group; each bit alone looks even. Both are d log 2 nats at most. The first
    is the same for any number of groups, the second does not fall with finer groups. Source: equations 6 and 8.
    """
    pairs = [lfq.entropies(group, temperature) for group in z.chunk(groups, dim=-1)]
    return sum((sure for sure, _ in pairs), z.new_zeros(())), sum((even for _, even in pairs), z.new_zeros(()))


class WeTok(WithoutWeights):
    """d channels in `groups` groups, one bit a channel; a group is one code of d / groups bits."""

    def __init__(
        self,
        d: int = 16,
        groups: int = 2,
        entropy: float = 0.1,
        commitment: float = 0.25,
        temperature: float = 0.3,
    ) -> None:
        super().__init__()
        if groups < 1 or d < 1 or d % groups:
            raise ValueError(f"d={d} and groups={groups} came, expected groups of at least one channel, all as wide")
        if not (0 <= entropy < math.inf and 0 <= commitment < math.inf):
            raise ValueError(f"entropy={entropy} and commitment={commitment} came, expected finite numbers from 0")
        if not 0 < temperature < math.inf:
            raise ValueError(f"temperature={temperature} came, expected a finite number above 0")
        if d // groups > (limit := 18 if entropy > 0 else 63):
            why = "the loss visits all codes of a group" if entropy > 0 else "a code has 64 bits"
            raise ValueError(f"groups of {d // groups} bits came (d={d}, groups={groups}), expected {limit}: {why}")
        self.d, self.groups, self.K = d, groups, 2 ** (d // groups)
        self.entropy, self.commitment, self.temperature = entropy, commitment, temperature
        self.places: Tensor
        self.register_buffer("places", torch.arange(d // groups), persistent=False)

    @property
    def bits(self) -> int:
        """Bits a token: one a channel."""
        return self.d

    def encode(self, z: Float[Tensor, "b n d"]) -> Int[Tensor, "b n g"]:
        """The code of each group, 0 to 2^(d / groups) - 1; a group's first channel is the least significant bit."""
        check_vectors(z, self.d)
        return ((z > 0).long().unflatten(-1, (self.groups, -1)) << self.places).sum(-1)

    def decode(self, codes: Int[Tensor, "b n g"]) -> Float[Tensor, "b n d"]:
        """The signs of each code, -1 or 1, group after group."""
        check_codes(codes, self.groups, self.K)
        return (((codes.long()[..., None] >> self.places) & 1) * 2 * self.unit - self.unit).flatten(2)

    def forward(self, z: Float[Tensor, "b n d"]) -> Quantized:
        """Signs with straight-through gradients, codes, and the groups' entropies' and the commitment's loss."""
        codes = self.encode(z)
        z_q = self.decode(codes)
        loss = self.commitment * F.mse_loss(wide(z), wide(z_q))
        if self.entropy > 0:
            sure, even = group_entropies(z, self.groups, self.temperature)
            loss = loss + self.entropy * (sure - even)
        return Quantized(straight_through(z, z_q), codes, loss)


def widened(conv: nn.Conv2d, channels: int) -> nn.Conv2d:
    """A copy of a convolution that reads `channels` more channels after its own, with weights of zero.

    So its output is at first that of `conv`, whatever the new channels hold. Source: the second stage of training.
    """
    wide = copy.deepcopy(conv)
    wide.in_channels += channels
    added = conv.weight.new_zeros(conv.out_channels, channels, *conv.kernel_size)
    wide.weight = nn.Parameter(torch.cat([conv.weight.detach(), added], 1))
    return wide


class GenerativeDecoder(nn.Module):
    """A copy of a trained decoder that also reads noise: each call paints another sample."""

    def __init__(self, decoder: nn.Sequential, channels: int = 8) -> None:
        super().__init__()
        first, *rest = decoder
        if not isinstance(first, nn.Conv2d) or first.groups != 1:
            raise ValueError(f"decoder begins with {first}, expected a Conv2d of one group, to widen it")
        if channels < 1:
            raise ValueError(f"channels={channels} came, expected at least 1 channel of noise")
        self.channels = channels
        self.decoder = nn.Sequential(widened(first, channels), *copy.deepcopy(rest))

    def forward(
        self, z_q: Float[Tensor, "b d H W"], noise: Float[Tensor, "b e H W"] | None = None
    ) -> Float[Tensor, "b c _ _"]:
        """The picture of quantized vectors, laid out as a map, and of noise, drawn from N(0, 1) unless given."""
        b, _, *size = z_q.shape
        shape = (b, self.channels, *size)
        if noise is None:
            noise = torch.randn(shape, dtype=z_q.dtype, device=z_q.device)
        elif noise.shape != shape:
            raise ValueError(f"noise of shape {tuple(noise.shape)} came, expected {shape}")
        check_finite("z_q", z_q)
        check_finite("noise", noise)
        return self.decoder(torch.cat([z_q, noise], 1))


def decoder_loss(fake: Float[Tensor, "..."]) -> Float[Tensor, ""]:
    """What the decoder pays for pictures that the discriminator knows as painted: `mean log(1 + exp(-fake))`.

    >>> decoder_loss(torch.tensor([0.0])).item() == torch.tensor(2.0).log().item()
    True

    The paper writes `log(1 - D)`, the released code has this one, with the same aim and a gradient that does not
    vanish while the discriminator wins. `fake` are the discriminator's logits, above 0 for "a real picture".
    """
    return F.softplus(-fake).mean()


def discriminator_loss(real: Float[Tensor, "..."], fake: Float[Tensor, "..."]) -> Float[Tensor, ""]:
    """The hinge loss of the released code: logits of real pictures are pushed above 1, of painted ones below -1.

    >>> discriminator_loss(torch.tensor([2.0, 0.0]), torch.tensor([-3.0, -1.0])).item()
    0.25
    """
    return (F.relu(1 - real).mean() + F.relu(1 + fake).mean()) / 2
