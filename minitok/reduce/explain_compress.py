"""The explainability compressor: learn from an explanation of the answer which visual tokens the input needs.

Lei, Gu, Ma, Tang, Chen, Xu: Generic Token Compression in Multimodal Large Language Models from an Explainability
Perspective, 2025, arXiv 2506.01097.

Mechanism: (1) the frozen model answers; with the gradient of the answer's logit to each layer's attention A,
`R <- R + mean over heads of relu(A * grad A) R` from R = 1 through all layers, and the row of R where the answer is
said tells how relevant each visual token was. Only rightly answered questions teach. (2) The compressor, five
depthwise separable convolutions along the tokens, gets what the words pay to the visual tokens in the *first* layer,
the mean over heads and words, and learns `softmax(scores)` = the relevance, its lower half set to 0, by their
Kullback-Leibler divergence. (3) The k tokens of the highest score are given to the language model, at their places.
Differs from the paper: an answer has one word here, so there is no mean over words. Where its text is silent the
choice is ours: the mean over heads, kernels of 7, ReLU between the convolutions, ends repeated, and the attention
divided by its mean, so that its size does not depend on the number of tokens. No code is published.
Notebook: notebooks/06_reduce/19_explain_compress.ipynb
"""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import cast

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from minitok.attention import visible
from minitok.nn import Block, Transformer
from minitok.reduce._common import Kept, Reduction, check_asked, check_signal, check_tokens, highest, precise

CHANNELS = (1, 32, 64, 128, 256, 512)


def rollout(weights: Sequence[Float[Tensor, "b h m m"]], slopes: Sequence[Float[Tensor, "b h m m"]]) -> Tensor:
    """How much the last of m tokens owes to each, (b, m), from each layer's attention and the answer's gradient to it.

    >>> weights = torch.tensor([[[[1.0, 0.0], [0.5, 0.5]]]])
    >>> rollout([weights], [torch.tensor([[[[0.0, 0.0], [4.0, -1.0]]]])]).tolist()
    [[2.0, 1.0]]

    The last row of the product of all `1 + A` is followed alone, from the last layer to the first.
    """
    b, _, _, m = weights[0].shape
    row = F.one_hot(torch.full((b,), m - 1, device=weights[0].device), m).to(weights[0].dtype)
    for weight, slope in zip(reversed(weights), reversed(slopes), strict=True):
        row = row + (row[:, None] @ (weight * slope).relu().mean(1))[:, 0]
    return row


def written_out(
    lm: Transformer, x: Float[Tensor, "b m c"], positions: Float[Tensor, "#b m"]
) -> tuple[Float[Tensor, "b m c"], list[Tensor]]:
    """What a causal language model makes of x, and the attention of each layer (b, h, m, m), ready for gradients."""
    seen, weights = visible("causal", x.shape[1], x.shape[1], x.device), []
    for block in cast("list[Block]", lm.blocks):
        part, normed = block.attention, block.norm1(x)
        weight, _ = part.map(normed, positions, seen)
        weights.append(weight if weight.requires_grad else weight.requires_grad_())
        values = part.split(part.value(normed), None).repeat_interleave(part.heads // part.kv_heads, 1)
        x = x + part.out((weights[-1] @ values).transpose(1, 2).flatten(2))
        x = x + block.mlp(block.norm2(x))
    return lm.norm(x), weights


@torch.enable_grad()
def explain(
    lm: Transformer,
    head: Callable[[Tensor], Tensor],
    visual: Float[Tensor, "b n c"],
    text: Float[Tensor, "b t c"],
    positions: Float[Tensor, "#b m"],
) -> tuple[Float[Tensor, "b n"], Float[Tensor, "b v"], list[Tensor]]:
    """How relevant each visual token was for the answer; the answer's logits; the attention of each layer.

    The answer explained is the likeliest one that `head` makes of the last state. Text stands behind the visual tokens;
    the model's weights are frozen.
    """
    hidden, weights = written_out(lm, torch.cat([visual, text], 1), positions)
    logits = head(hidden[:, -1])
    slopes = torch.autograd.grad(logits.amax(-1).sum(), weights)
    with torch.no_grad():
        found = rollout(weights, slopes)[:, : visual.shape[1]]
    return found, logits.detach(), [weight.detach() for weight in weights]


@torch.no_grad()
def of_first_layer(
    lm: Transformer, visual: Float[Tensor, "b n c"], text: Float[Tensor, "b t c"], positions: Float[Tensor, "#b m"]
) -> Float[Tensor, "b h t n"]:
    """What the words pay to the visual tokens in the first layer of a causal language model, which needs nothing else.

    Its keys are those that the layer needs anyway, for all tokens that stay.
    """
    x, block = torch.cat([visual, text], 1), cast("Block", lm.blocks[0])
    seen = visible("causal", x.shape[1], x.shape[1], x.device)
    n = visual.shape[1]
    return block.attention.map(block.norm1(x), positions, seen)[0][:, :, n:, :n]


def mean_paid(paid: Float[Tensor, "b h t n"], asked: Bool[Tensor, "b t"]) -> Float[Tensor, "b n"]:
    """The mean over heads and over those rows that are words, in float32 or finer."""
    share = precise(asked.to(paid.dtype)) / asked.sum(1, keepdim=True)
    return (precise(paid).mean(1) * share[..., None]).sum(1)


def target(relevance: Float[Tensor, "b n"], share: float = 0.5) -> Float[Tensor, "b n"]:
    """The relevance with its lowest `share` set to 0, divided so that it adds up to 1.

    >>> target(torch.tensor([[4.0, 1.0, 2.0, 12.0]])).tolist()
    [[0.25, 0.0, 0.0, 0.75]]
    """
    kept = highest(relevance, relevance.shape[1] - int(share * relevance.shape[1]))
    top = torch.zeros_like(relevance).scatter(1, kept, relevance.gather(1, kept))
    return top / top.sum(1, keepdim=True)


def compressor_loss(scores: Float[Tensor, "b n"], relevance: Float[Tensor, "b n"], share: float = 0.5) -> Tensor:
    """KL(target || softmax(scores)), the mean over rows."""
    return F.kl_div(scores.log_softmax(-1), target(relevance, share), reduction="batchmean")


class Compressor(nn.Module):
    """Five depthwise separable convolutions along the tokens, and one score a token: 175 thousand weights."""

    def __init__(self, channels: Sequence[int] = CHANNELS, kernel: int = 7) -> None:
        super().__init__()
        self.along = nn.ModuleList(
            nn.Conv1d(c, c, kernel, padding=kernel // 2, padding_mode="replicate", groups=c) for c in channels[:-1]
        )
        self.across = nn.ModuleList(nn.Conv1d(*sizes, 1) for sizes in pairwise(channels))
        self.score = nn.Conv1d(channels[-1], 1, 1)
        for layer in self.across:
            nn.init.kaiming_normal_(cast("Tensor", layer.weight), nonlinearity="relu")

    def forward(self, paid: Float[Tensor, "b n"]) -> Float[Tensor, "b n"]:
        """The scores of n tokens, any number, from what they are paid."""
        x = (paid / paid.mean(1, keepdim=True))[:, None]
        for along, across in zip(self.along, self.across, strict=True):
            x = across(along(x)).relu()
        return self.score(x)[:, 0]


def explain_compress(
    x: Float[Tensor, "b n c"],
    k: int,
    *,
    first_attention: Float[Tensor, "b h t n"],
    asked: Bool[Tensor, "b t"],
    compressor: Compressor,
) -> Kept:
    """Keeps the k visual tokens that a trained compressor scores highest, in their order, for the model's input.

    `first_attention` is what t words pay to the n visual tokens in the language model's first layer, `asked` which of
    them are words and not filling. Of equal scores the lower index counts. Raises `ValueError` for bad tokens, a k
    outside 1 to n, attention or words of another shape, and a row that asks nothing.
    """
    check_tokens(x, k)
    b, n, _ = x.shape
    check_signal("first_attention", first_attention, (b, None, None, n))
    check_asked(asked, (b, first_attention.shape[2]))
    return Reduction.keep(highest(compressor(mean_paid(first_attention, asked)), k), n)
