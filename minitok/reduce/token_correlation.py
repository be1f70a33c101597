"""TokenCorrCompressor: crops that repeat themselves get fewer tokens; CLS's outliers stay, others are drawn.

Zhang, Lyu, Shao, Chen, Guan, Nie: Token-level Correlation-guided Compression for Efficient Multimodal Document
Understanding, 2024, arXiv 2407.14439.

Mechanism: of each crop of a document by itself. A patch is redundant if its key has a cosine above a threshold with
more than some number of other patches; the density d is the share of patches that are not, and the crop keeps about d N
tokens. Which: those that CLS pays much more than others in a late layer, the outliers above `Q3 + 1.5 (Q3 - Q1)`; the
rest is drawn without returning, by CLS's attention in an early layer. What is not kept is merged, by weight, into the
kept token that its key is most like.
Differs from the paper: neither paper nor code could be read, only the abstract and reviews of it; its repository holds
no code. So these choices are ours: a cosine above 0.99 (for the house's vlm_many, on pages that no figure is from) with
more than a tenth of the crop's patches; the first and the last layer; at least one token's share for a crop; merged
tokens weigh as much as their cosine, at least 0, and kept ones 1. Its number of tokens follows from the picture
(`natural`); here k is given and shared in proportion to the densities.
Notebook: notebooks/06_reduce/17_token_correlation.ipynb
"""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from minitok.reduce._common import Merged, Reduction, check_signal, check_tokens, precise
from minitok.reduce._pictures import shared, within


def redundant(keys: Float[Tensor, "*b m d"], similar: float = 0.99, many: float = 0.1) -> Bool[Tensor, "*b m"]:
    """Whether a patch is like more than `many` of all m: its key's cosine with so many others is above `similar`.

    >>> keys = torch.tensor([[1.0, 0.0], [1.0, 0.1], [1.0, 0.2], [0.0, 1.0]])
    >>> redundant(keys, similar=0.9, many=0.25).tolist()
    [True, True, True, False]
    """
    keys = F.normalize(keys, dim=-1)
    alike = (keys @ keys.mT > similar).sum(-1) - 1  # a key of zeros is not even like itself
    return alike > many * keys.shape[-2]


def densities(
    keys: Float[Tensor, "b g n d"], pictures: int, similar: float = 0.99, many: float = 0.1
) -> Float[Tensor, "b p"]:
    """The share of each picture's patches that are not redundant, at least one of them. Keys are joined over heads."""
    each = precise(keys).transpose(1, 2).flatten(2).unflatten(1, (pictures, -1))  # b p m gd
    unlike = (~redundant(each, similar, many)).sum(-1)
    return unlike.clamp(min=1) / each.shape[2]


def natural(
    keys: Float[Tensor, "b g n d"], pictures: int, similar: float = 0.99, many: float = 0.1
) -> Int[Tensor, "b"]:
    """How many tokens the paper's rule leaves: in each picture as many as there are patches that are not redundant."""
    return (densities(keys, pictures, similar, many) * (keys.shape[2] // pictures)).round().sum(1).long()


def outliers(paid: Float[Tensor, "*b m"]) -> Bool[Tensor, "*b m"]:
    """Values above the third quartile by more than 1.5 times the distance of the quartiles.

    >>> outliers(torch.tensor([1.0, 2.0, 3.0, 4.0, 7.5])).tolist()
    [False, False, False, False, True]
    """
    low, high = (quantile(paid, q) for q in (0.25, 0.75))
    return paid > high + 1.5 * (high - low)


def quantile(x: Float[Tensor, "*b m"], q: float) -> Float[Tensor, "*b 1"]:
    """The value that the share q of m values does not exceed, between two of them in proportion; of no rows none.

    >>> quantile(torch.tensor([4.0, 1.0, 3.0, 2.0]), 0.25).tolist()
    [1.75]
    """
    place = q * (x.shape[-1] - 1)
    sorted_, low = x.sort(-1).values, int(place)
    first, second = (sorted_[..., i : i + 1] for i in (low, min(low + 1, x.shape[-1] - 1)))
    return first + (place - low) * (second - first)


def sampled(
    early: Float[Tensor, "b n"], late: Float[Tensor, "b n"], budgets: Int[Tensor, "b p"], k: int, seed: int = 0
) -> Int[Tensor, "b k"]:
    """The tokens that are kept of each picture: outliers of the late layer first, others drawn by the early one.

    A draw belongs to a place: it is the same for all rows.
    """
    p = budgets.shape[1]
    u = torch.rand(early.shape[1], generator=torch.Generator().manual_seed(seed), device="cpu").to(early)
    # The highest of these win a draw without returning in proportion to what is paid (Gumbel's trick).
    drawn = early.clamp(min=1e-30).log() - (-u.clamp(min=1e-30).log()).clamp(min=1e-30).log()
    drawn = drawn - drawn.amax(1, True)
    each = late.unflatten(1, (p, -1))
    # Outliers stand above all others, by what they are paid.
    first = outliers(each) * (1 + each / each.amax(-1, keepdim=True).clamp(min=1e-30))
    return within(torch.where(first > 0, first, drawn.unflatten(1, (p, -1))).flatten(1), budgets, k)


def joined(keys: Float[Tensor, "b g n d"], kept: Int[Tensor, "b k"], pictures: int) -> Merged:
    """What is not kept goes into the kept token of its picture whose key is most like its own, weighed by the cosine.

    Of equals the lower one takes it; what is like no kept token of its picture, or has none, is dropped.
    """
    (b, k), n = kept.shape, keys.shape[2]
    keys = F.normalize(precise(keys).transpose(1, 2).flatten(2), dim=-1)
    place = torch.arange(n, device=keys.device) * pictures // n
    cosines = keys @ keys.gather(1, kept[..., None].expand(-1, -1, keys.shape[2])).mT  # b n k
    cosines = cosines.masked_fill(place[:, None] != place[kept][:, None], -torch.inf)
    best, to = cosines.max(-1)
    to = torch.where(best <= 0, -1, to).scatter(1, kept, torch.arange(k, device=keys.device).expand(b, -1))
    weights = best.clamp(min=0).scatter(1, kept, 1.0)
    return Reduction.merge(to, k, weights)


def token_correlation(
    x: Float[Tensor, "b n c"],
    k: int,
    *,
    keys: Float[Tensor, "b g n d"],
    cls_first: Float[Tensor, "b h n"],
    cls_attention: Float[Tensor, "b i n"],
    pictures: int = 5,
    similar: float = 0.99,
    seed: int = 0,
) -> Merged:
    """Leaves k tokens of several pictures of n / pictures each: by density, CLS's outliers, a draw, and merging.

    `keys` are those of a layer of the encoder, `cls_first` and `cls_attention` what the CLS token of each token's own
    picture pays it in an early and in the last layer, means over heads. Outputs stand in the order of the kept tokens.
    Raises `ValueError` for bad tokens, a k outside 1 to n, signals of another shape or of no heads, and a number of
    pictures that does not divide n.
    """
    check_tokens(x, k)
    b, n, _ = x.shape
    check_signal("keys", keys, (b, None, n, None))
    for name, paid in (("cls_first", cls_first), ("cls_attention", cls_attention)):
        check_signal(name, paid, (b, None, n))
        if paid.shape[1] == 0:
            raise ValueError(f"{name} of no heads came, expected at least one")
    if pictures < 1 or n % pictures:
        raise ValueError(f"pictures={pictures} came for {n} tokens, expected a number that divides them")
    budgets = shared(densities(keys, pictures, similar), k, n // pictures)
    early, late = precise(cls_first).mean(1), precise(cls_attention).mean(1)
    return joined(keys, sampled(early, late, budgets, k, seed), pictures)
