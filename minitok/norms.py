"""Norms of tokens, computed in float32 or finer whatever the type of the weights."""

import torch
from jaxtyping import Float
from torch import Tensor, nn


class RMSNorm(nn.Module):
    """Divides each token by its root mean square over the channels, then scales. Source: arXiv 1910.07467."""

    def __init__(self, width: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.scale, self.eps = nn.Parameter(torch.ones(width)), eps

    def forward(self, x: Float[Tensor, "... c"]) -> Float[Tensor, "... c"]:
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        square = wide.pow(2).mean(-1, keepdim=True)
        return (wide * (square + self.eps).rsqrt()).to(x.dtype) * self.scale


class LayerNorm(nn.Module):
    """Removes each token's mean, divides by its standard deviation, scales and shifts. Source: arXiv 1607.06450."""

    def __init__(self, width: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.scale, self.shift = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))
        self.eps = eps

    def forward(self, x: Float[Tensor, "... c"]) -> Float[Tensor, "... c"]:
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        variance, mean = torch.var_mean(wide, dim=-1, correction=0, keepdim=True)
        return ((wide - mean) * (variance + self.eps).rsqrt()).to(x.dtype) * self.scale + self.shift
