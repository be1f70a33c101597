"""GlobalCom2: the thumbnail guides how many tokens each crop keeps, and which.

Liu, Wang, Chen, Han, Wang, Yuan, Song, Huang, Chen: Compression with Global Guidance: Towards Training-free
High-Resolution MLLMs Acceleration, 2025, arXiv 2501.05179.

Mechanism: a thumbnail and crops of N tokens each go through one vision encoder; a is what CLS pays to patches in its
last layer. Of all tokens the share R is to be left. The thumbnail keeps its R N best. Crop j has the score s_j, the sum
of the thumbnail's a over its area; `w = softmax((s - max s) / tau)`, tau = 10, and crop j keeps the share
`r_j = R (1 + w_j - mean w)` of its tokens, at most all. Which: the thumbnail's map of a is resized to all crops
(bilinear) and cut, `score = a_j / |a_j| + g_j / |g_j|` with crop j's own a_j and its part g_j of that map; the highest
stay, in their order. Nothing is trained, no text is read.
Differs from the paper: its code rounds each picture's number down; here what that leaves over is handed out too
(`shared`), so that k tokens are left and not fewer. Filled-up borders of crops, which the code takes away first, and
its tokens between lines are not known here.
Notebook: notebooks/06_reduce/16_globalcom2.ipynb
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from minitok.reduce._common import Kept, Reduction, check_signal, check_tokens, precise
from minitok.reduce._pictures import areas, shared, squares, within


def retention(
    thumbnail: Float[Tensor, "b m"], share: float, crops: tuple[int, int], tau: float = 10.0
) -> Float[Tensor, "b p"]:
    """The share of its tokens that each crop keeps, in the order of reading; unless cut at 1, `share` on average.

    >>> retention(torch.tensor([[0.4, 0.2, 0.2, 0.2]]), 0.5, (2, 2), tau=0.1)
    tensor([[0.7306, 0.4231, 0.4231, 0.4231]])
    """
    place = areas(thumbnail.shape[1], crops, thumbnail.device)
    sums = thumbnail.new_zeros(len(thumbnail), crops[0] * crops[1]).index_add(1, place, thumbnail)
    weights = (sums / tau).softmax(-1)
    return (share * (1 + weights - weights.mean(-1, keepdim=True))).clamp(max=1)


def guided(thumbnail: Float[Tensor, "b m"], own: Float[Tensor, "b p m"], crops: tuple[int, int]) -> Tensor:
    """The scores of the crops' tokens, (b, p, m): their own CLS attention and the thumbnail's, each of length 1.

    >>> guided(torch.full((1, 4), 0.2), torch.tensor([[[0.0, 0.0, 0.3, 0.4]]]), (1, 1))
    tensor([[[0.5000, 0.5000, 1.1000, 1.3000]]])
    """
    (b, p, m), (rows, columns) = own.shape, crops
    side = math.isqrt(m)
    whole, size = thumbnail.view(b, 1, side, side), (rows * side, columns * side)
    large = F.interpolate(whole, size=size, mode="bilinear", align_corners=False)
    parts = large.view(b, rows, side, columns, side).transpose(2, 3).reshape(b, p, m)
    return F.normalize(own, dim=-1) + F.normalize(parts, dim=-1)


def globalcom2(
    x: Float[Tensor, "b n c"],
    k: int,
    *,
    cls_attention: Float[Tensor, "b h n"],
    crops: tuple[int, int] = (2, 2),
    tau: float = 10.0,
) -> Kept:
    """Keeps k tokens of a thumbnail and its crops, whose budgets and choice the thumbnail guides.

    `cls_attention` is what the CLS token of each token's own picture pays it in the encoder's last layer; its mean over
    heads counts. The thumbnail stands first, then the crops, `crops` rows and columns of them. Raises `ValueError` for
    bad tokens, a k outside 1 to n, attention of another shape or of no heads, pictures that are not as many squares,
    and a tau that is not above 0.
    """
    check_tokens(x, k)
    b, n, _ = x.shape
    check_signal("cls_attention", cls_attention, (b, None, n))
    if cls_attention.shape[1] == 0:
        raise ValueError("cls_attention of no heads came, expected at least one")
    if not tau > 0:
        raise ValueError(f"tau={tau} came, expected above 0")
    m, paid = squares(n, crops), precise(cls_attention).mean(1)
    thumbnail, own, share = paid[:, :m], paid[:, m:].unflatten(1, (-1, m)), int(k) / n
    if n == m:
        return Reduction.keep(within(thumbnail, torch.full((b, 1), int(k), device=x.device), k), n)
    each = torch.cat([torch.full_like(thumbnail[:, :1], share), retention(thumbnail, share, crops, tau)], 1)
    scores = torch.cat([thumbnail[:, None], guided(thumbnail, own, crops)], 1)
    return Reduction.keep(within(scores.flatten(1), shared(each, k, m), k), n)
