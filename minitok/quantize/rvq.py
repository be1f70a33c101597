"""Residual vector quantization (RVQ), as in SoundStream.

Zeghidour, Luebs, Omran, Skoglund, Tagliasacchi: SoundStream: An End-to-End Neural Audio Codec, 2021, arXiv 2107.03312.

Mechanism: stages i = 1..N_q, each a codebook of K vectors. The first quantizes z, each later one what is left over
(algorithm 1): `r = z; for i in 1..N_q: q_i = Q_i(r), z_q += q_i, r -= q_i`. That is N_q codes of log2 K bits a vector,
and N_q K distances that choose among K^N_q sums. The first k codes describe the same vector more coarsely, so a
decoder of this width takes any number of them. Quantizer dropout (section III-C) trains it for that: for each example
of a batch n_q is drawn uniformly from 1..N_q, and only stages 1..n_q are used.
Differs from the paper: each stage learns by the VQ-VAE's loss (averaged over stages) and starts on vectors picked from
its residuals, where the paper has moving averages, a start by k-means on the first batch, and vectors that are replaced
when the moving average of their uses (decay 0.99) falls below 2; it names no commitment loss.
Notebook: notebooks/01_quantize/02_rvq.ipynb
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

# Not `from vq import VQ`: a module of this chapter shows one class with `bits`, its own.
from minitok.quantize import vq
from minitok.quantize._common import Quantized, check_codes, check_vectors, straight_through, wide


def cascade(
    z: Float[Tensor, "b n d"], codebooks: Sequence[Float[Tensor, "K d"]]
) -> tuple[Int[Tensor, "b n g"], Float[Tensor, "g b n d"], Float[Tensor, "g b n d"]]:
    """Codes, code vectors and inputs of all stages: each is given what the ones before it left over.

    >>> coarse, fine = torch.tensor([[0.0], [10.0]]), torch.tensor([[-1.0], [2.0]])
    >>> codes, chosen, given = cascade(torch.tensor([[[11.5]]]), [coarse, fine])
    >>> codes.tolist(), chosen.flatten().tolist(), given.flatten().tolist()
    ([[[1, 1]]], [10.0, 2.0], [11.5, 1.5])

    Residuals are at least float32, and have the gradient of z alone. Source: algorithm 1.
    """
    residual, codes, chosen, given = wide(z), [], [], []
    for codebook in codebooks:
        given.append(residual)
        codes.append(vq.nearest(residual, codebook))
        chosen.append(codebook[codes[-1]])
        residual = residual - chosen[-1].detach()
    return torch.stack(codes, -1), torch.stack(chosen), torch.stack(given)


class RVQ(nn.Module):
    """`stages` codebooks of K vectors of width d; as many codes a vector, the first the coarsest."""

    def __init__(
        self, d: int = 8, K: int = 64, stages: int = 4, commitment: float = 0.25, dropout: bool = False
    ) -> None:
        super().__init__()
        if stages < 1:
            raise ValueError(f"stages={stages} came, expected at least 1")
        self.stages = nn.ModuleList(vq.VQ(d, K, commitment) for _ in range(stages))
        self.d, self.K, self.commitment, self.dropout = d, K, commitment, dropout

    @property
    def codebooks(self) -> list[Tensor]:
        """The code vectors of each stage, (K, d)."""
        return [stage.codebook for stage in self.stages]  # pyright: ignore[reportReturnType]

    @property
    def bits(self) -> float:
        """Bits a token: log2 K of each stage."""
        return sum(stage.bits for stage in self.stages)  # pyright: ignore[reportArgumentType, reportCallIssue]

    @torch.no_grad()
    def start_from(self, z: Float[Tensor, "b n d"]) -> None:
        """Lays each stage's codebook on K vectors picked at random from what the stages before it leave of z.

        Raises `ValueError` when z holds fewer than K vectors.
        """
        for i, stage in enumerate(self.stages):
            left = wide(z) - self.decode(self.encode(z)[..., :i]) if i else z
            stage.start_from(left)  # pyright: ignore[reportCallIssue]

    def encode(self, z: Float[Tensor, "b n d"]) -> Int[Tensor, "b n g"]:
        """The codes of all stages, 0 to K - 1; for fewer bits keep `codes[..., :k]`."""
        check_vectors(z, self.d)
        return cascade(z, self.codebooks)[0]

    def decode(self, codes: Int[Tensor, "b n k"]) -> Float[Tensor, "b n d"]:
        """The sum of the code vectors of the first k stages, k from 1 to all."""
        stages = len(self.stages)
        if codes.dim() != 3 or not 1 <= codes.shape[-1] <= stages:
            raise ValueError(f"codes of shape {tuple(codes.shape)} came, expected (b, n, k) with k from 1 to {stages}")
        check_codes(codes, codes.shape[-1], self.K)
        pairs = zip(self.codebooks, codes.unbind(-1), strict=False)  # a prefix leaves later codebooks unread
        return torch.stack([codebook[code.long()] for codebook, code in pairs]).sum(0)

    def forward(self, z: Float[Tensor, "b n d"]) -> Quantized:
        """Values with straight-through gradients, the codes of all stages, and the mean of the stages' losses.

        In training with `dropout`, row i of the batch gets a number of stages of its own; the stages beyond it are
        left out of its values and of its loss, but not of its codes.
        """
        check_vectors(z, self.d)
        codes, chosen, given = cascade(z, self.codebooks)
        if self.training and self.dropout:
            stage = torch.arange(len(chosen), device=z.device)
            used = stage[:, None] < torch.randint(1, len(chosen) + 1, (len(z),), device=z.device)
            chosen, given = (t * used[..., None, None] for t in (chosen, given))
        losses = [vq.codebook_loss(r, q, self.commitment) for r, q in zip(given, chosen, strict=True)]
        return Quantized(straight_through(z, chosen.sum(0)), codes, torch.stack(losses).mean())
