"""HiRED: the thumbnail's first look says how many tokens each crop gets, the last layer says which.

Arif, Yoon, Nikolopoulos, Vandierendonck, John, Ji: HiRED: Attention-Guided Token Dropping for Efficient Inference of
High-Resolution Vision-Language Models in Resource-Constrained Environments, 2024, arXiv 2408.10945.

Mechanism: a large picture comes as a thumbnail and crops of N tokens each, with k tokens to be left in all. The
thumbnail gets `min(floor(alpha k), N)`. The crops share the rest R: of the thumbnail's tokens the `floor((1 - alpha)
N)` that CLS pays most in the first layer of the vision encoder are marked, and crop j gets `floor(R c_j / sum c)`, at
most N, where c_j counts the marks in its area. Each picture then keeps the tokens that its own CLS pays most in the
last layer, sums over heads. Kept tokens stand in their order. Nothing is trained, no text is read.
Differs from the paper: its code cuts the flat map of marks into as many equal runs as there are crops, which are bands
of rows and not the crops' areas; here marks count for the crop that they lie in. What flooring leaves over is handed
out too (`shared`), so that k tokens are left and not fewer. Filled-up borders of crops are not known here.
Notebook: notebooks/06_reduce/14_hired.ipynb
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from minitok.reduce._common import Kept, Reduction, check_signal, check_tokens, highest, precise
from minitok.reduce._pictures import areas, shared, squares, within


def marks(first: Float[Tensor, "b m"], crops: tuple[int, int], alpha: float = 0.5) -> Int[Tensor, "b p"]:
    """How many of the thumbnail's tokens that the first layer looks at lie in each crop, in the order of reading.

    >>> first = torch.tensor([[0.3, 0.1, 0.0, 0.0, 0.2, 0.0, 0.0, 0.0, 0.0, 0.0, 0.1, 0.0, 0.0, 0.0, 0.0, 0.0]])
    >>> marks(first, (2, 2), alpha=0.75).tolist()
    [[3, 0, 0, 1]]

    `floor((1 - alpha) m)` tokens are marked, of equals the lower ones; the thumbnail is a square.
    """
    b, m = first.shape
    count = math.floor((1 - alpha) * m)
    place = areas(m, crops, first.device)
    chosen = highest(first, count) if count else first.new_zeros(b, 0, dtype=torch.long)
    return F.one_hot(place[chosen], crops[0] * crops[1]).sum(1)


def budgets(first: Float[Tensor, "b m"], k: int, crops: tuple[int, int], alpha: float = 0.5) -> Int[Tensor, "b all"]:
    """How many of k tokens the thumbnail and then each crop keep; what the crops cannot hold stays with the thumbnail.

    >>> budgets(torch.tensor([[0.1, 0.5, 0.1, 0.3]]), 8, crops=(2, 2)).tolist()
    [[4, 0, 2, 0, 2]]
    """
    m, p = first.shape[1], crops[0] * crops[1]
    own = max(min(math.floor(alpha * k), m), k - p * m)
    thumbnail = torch.full((len(first), 1), own, device=first.device)
    if own == k:
        return F.pad(thumbnail, (0, p))
    return torch.cat([thumbnail, shared(precise(marks(first, crops, alpha).to(first.dtype)), k - own, m)], 1)


def hired(
    x: Float[Tensor, "b n c"],
    k: int,
    *,
    cls_first: Float[Tensor, "b h n"],
    cls_attention: Float[Tensor, "b g n"],
    crops: tuple[int, int] = (2, 2),
    alpha: float = 0.5,
) -> Kept:
    """Keeps the k tokens of a thumbnail and its crops that their CLS tokens pay most, by budgets from the first layer.

    `cls_first` and `cls_attention` are what the CLS token of each token's own picture pays it in the encoder's first
    and last layer; in a CLIP of Hugging Face's `output.attentions[layer][:, :, 0, 1:]` of all pictures, side by side.
    The thumbnail stands first, then the crops, `crops` rows and columns of them. Raises `ValueError` for bad tokens, a
    k outside 1 to n, attention of another shape, pictures that are not as many squares, and an alpha outside 0 to 1.
    """
    check_tokens(x, k)
    b, n, _ = x.shape
    check_signal("cls_first", cls_first, (b, None, n))
    check_signal("cls_attention", cls_attention, (b, None, n))
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha={alpha} came, expected 0 to 1")
    m = squares(n, crops)
    first, last = precise(cls_first).sum(1), precise(cls_attention).sum(1)
    return Reduction.keep(within(last, budgets(first[:, :m], int(k), crops, alpha), k), n)
