"""Raster autoregression: a picture's codes one after another, row by row, as a language model writes words.

Sun, Jiang, Chen, Zhang, Peng, Luo, Yuan: Autoregressive Model Beats Diffusion: Llama for Scalable Image Generation,
2024, arXiv 2406.06525 (LlamaGen).

Mechanism: the n codes of a picture are read left to right, top to bottom, and their probability is split into
`p(x | class) = prod_k p(x_k | class, x_1 .. x_{k-1})`. A causal Transformer reads the class as a token
of its own, then the codes, and is trained by cross-entropy on all positions at once. Drawing takes one call for each
code; keys and values of the past are kept. The class is dropped now and then in training, so that logits with and
without it can be set apart: `u + g (c - u)`.
Differs from the paper: positions are learnt vectors besides rotary ones along the sequence, where LlamaGen has rotary
ones of row and column; the vectors by which codes are read also read the answer (tied weights).
Notebook: notebooks/04_generate/01_raster.ipynb
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from minitok.generate._common import Schedule, check_codes
from minitok.nn import Cache, Shape, Transformer


def raster(n: int) -> Schedule:
    """One position after another: n groups of one.

    >>> raster(3).groups
    ((0,), (1,), (2,))
    """
    return Schedule(tuple((k,) for k in range(n)))


class ImageGPT(nn.Module):
    """Next-code probabilities given a class and the codes before. Label `classes` stands for "any" (for guidance)."""

    def __init__(self, shape: Shape, K: int = 4096, n: int = 256, classes: int = 10) -> None:
        super().__init__()
        if min(K, n, classes) < 1:
            raise ValueError(f"K={K}, n={n} and classes={classes} came, expected at least 1 of each")
        c = shape.width
        self.K, self.classes, self.schedule = K, classes, raster(n)
        self.code = nn.Parameter(torch.randn(K, c) * 0.02)
        self.label = nn.Embedding(classes + 1, c)
        self.position = nn.Parameter(torch.randn(n, c) * 0.02)
        self.body = Transformer(shape)

    def forward(
        self, codes: Int[Tensor, "b n"], labels: Int[Tensor, "b"], cache: Cache | None = None
    ) -> Float[Tensor, "b m K"]:
        """Logits of the code that follows the class and of those that follow each given code: m = n + 1.

        The last code of a picture is followed by none: a whole picture gives the logits of each of its codes, as
        without its last code. With a cache give only the codes that it does not hold: the class is read in the first
        call, later m = n. Raises `ValueError` for codes or labels of a wrong shape, type, range or number.
        """
        code, past = self.code, len(cache) if cache is not None else 0
        if past >= (n := len(self.position)):
            raise ValueError(f"cache of {past} tokens came, expected fewer than {n}: nothing follows the last code")
        check_codes(codes, labels, self.K, self.classes, range(past > 0, n - past + (past > 0) + 1))
        x = code[codes]
        if past == 0:
            x = torch.cat([self.label(labels)[:, None], x], dim=1)
        at = self.position[past : past + x.shape[1]]
        x = F.dropout(x[:, : len(at)] + at, 0.1, self.training)
        return self.body(x, "causal", cache=cache) @ code.T

    def step(self, new: Int[Tensor, "b n"], labels: Int[Tensor, "b"], cache: Cache) -> Float[Tensor, "b 1 K"]:
        """Logits of the next code, given those that the cache does not hold."""
        return self(new, labels, cache)[:, -1:]
