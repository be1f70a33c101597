"""AdaToken-3D: keep the spatial tokens that carry nearly all of what flows from the scene to the question.

Zhang, Chen, Zhang: AdaToken-3D: Dynamic Spatial Gating for Efficient 3D Large Multimodal-Models Reasoning, 2025,
arXiv 2505.12782. Only its abstract and introduction could be read, and no code was found: they say that token-level
information flows are measured by mining attention patterns, that pruning is tailored to each model by the contribution
of its spatial tokens, and that over 60 % of them contribute less than 5 %. All else here is our reading of that.

Mechanism: in layer l, the flow of spatial token j is `f_j = mean over heads and words i of A[h, i, j]`, the words being
those of the question. A profile on other questions counts how many tokens carry 95 % of all flow, and the mean of that,
rounded up, is the layer's k. From that layer on, the k tokens of the highest flow stay, at their positions; the others
are removed from the sequence, so that attention is shared out anew among what is left. Words stay. No training.
Differs from the paper: not known; ours are the score, the layer, one k for all questions of a layer, and the host: our
house has no voxels, so the spatial tokens are the patches of a picture.
Notebook: notebooks/06_reduce/25_adatoken_3d.ipynb
"""

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from minitok.reduce._common import Kept, Reduction, check_signal, check_tokens, highest, precise


def flow(paid: Float[Tensor, "b h m n"], asked: Bool[Tensor, "b t"]) -> Float[Tensor, "b n"]:
    """What each of n spatial tokens is paid by the words, as the mean over heads and words.

    >>> paid = torch.tensor([[[[1.0, 0.0], [0.5, 0.5], [0.5, 0.25], [0.25, 0.0]]]])
    >>> flow(paid, torch.tensor([[True, True]])).tolist()
    [[0.375, 0.125]]

    The last t of the m payers are words, or filling where `asked` says no; without any word there is no flow. In
    float32 or finer. Raises `ValueError` for more words than payers.
    """
    if asked.shape[1] > paid.shape[2]:
        raise ValueError(f"asked of {asked.shape[1]} words came for {paid.shape[2]} payers")
    rows = precise(paid[:, :, paid.shape[2] - asked.shape[1] :]).mean(1)
    return (rows * asked[..., None]).sum(1) / asked.sum(1, keepdim=True).clamp(min=1)


def enough(flow: Float[Tensor, "b n"], share: float = 0.95) -> Int[Tensor, "b"]:
    """How many tokens it takes, the highest first, to carry this share of each row's flow.

    >>> enough(torch.tensor([[0.125, 0.5, 0.25, 0.125]]), share=0.75).tolist()
    [2]

    Raises `ValueError` for a share outside 0 to 1.
    """
    if not 0 <= share <= 1:
        raise ValueError(f"share={share} came, expected 0 to 1")
    carried = flow.sort(-1, descending=True).values.cumsum(-1)
    return ((carried < share * carried[:, -1:]).sum(-1) + 1).clamp(max=flow.shape[1])


def tokens_for(flow: Float[Tensor, "b n"], share: float = 0.95) -> int:
    """The number of tokens to keep in a layer, from a profile: the mean of `enough` over rows, rounded up.

    >>> tokens_for(torch.tensor([[0.125, 0.5, 0.25, 0.125], [0.5, 0.5, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0]]), share=0.75)
    2
    """
    return math.ceil(enough(flow, share).double().mean())


def adatoken_3d(
    x: Float[Tensor, "b n c"], k: int, *, paid: Float[Tensor, "b h m n"], asked: Bool[Tensor, "b t"]
) -> Kept:
    """Keeps the k spatial tokens of the highest flow into the words, in their order.

    `paid` is what the n spatial tokens and then t words pay to the spatial ones, in a model of Hugging Face's
    `output.attentions[layer][..., start:, start : start + n]`; `asked` says which of those are words and not filling. k
    comes from `tokens_for` a profile. Of equal flow the lower index counts. Raises `ValueError` for bad tokens, a k
    outside 1 to n, attention of another shape or of no heads, and `asked` that does not fit it.
    """
    check_tokens(x, k)
    b, n, _ = x.shape
    check_signal("paid", paid, (b, None, None, n))
    if paid.shape[1] == 0:
        raise ValueError("paid by no heads came, expected at least one")
    if asked.dtype != torch.bool or asked.shape != (b, paid.shape[2] - n):
        came = f"of type {asked.dtype} and shape {tuple(asked.shape)}"
        raise ValueError(f"asked {came} came, expected booleans ({b}, {paid.shape[2] - n}), one for each word of paid")
    return Reduction.keep(highest(flow(paid, asked), k), n)
