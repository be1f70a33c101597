"""ToDRE: keep tokens that differ from all that is kept, and drop them all where words no longer look at them.

Li, Yang, Lu: ToDRE: Visual Token Pruning via Diversity and Task Awareness for Efficient Large Vision-Language Models,
2025, arXiv 2505.18757 (read in its second version, Li, Yang, Zhang, Shao, Lu).

Mechanism: stage 1, before the language model (section 4.1): begin with the token that CLS looks at most in the last
layer of the encoder, then add, again and again, the token whose cosines with all chosen ones have the smallest sum,
`argmin_v S_v`, `S_v = sum_c cos(x_v, x_c)`: greedy max-sum diversification. Stage 2, in layer 7L / 8 of the language
model (section 4.2): where words pay less than tau = 0.1 of their attention to visual tokens, and visual tokens less
than tau of theirs to words, all visual tokens go, from later layers and from the cache.
Differs from the paper: a share of kept tokens is a count k here, and they stand in the order of the input. Crops or
frames are not told apart: whoever has a thumbnail gives its CLS attention, and zeros elsewhere. The first version of
the paper calls its greedy choice k-center, which is DivPrune's; this is that of the second version.
Notebook: notebooks/06_reduce/12_todre.ipynb
"""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from minitok.reduce._common import Kept, Reduction, check_signal, check_tokens, precise


def max_sum(x: Float[Tensor, "b n c"], pivot: Int[Tensor, "b"], k: int) -> Int[Tensor, "b k"]:
    """The k tokens of the greedy walk from a pivot, in the order in which they are chosen; of equals the lowest.

    >>> x = torch.tensor([[[1.0, 0.0], [0.6, 0.8], [0.0, 1.0], [-1.0, 0.0]]])
    >>> max_sum(x, torch.tensor([0]), k=3)
    tensor([[0, 3, 1]])

    Tokens 1 and 2 then have sums 0.6 - 0.6 and 0 - 0, and 1 is the lower. Source: equations 4 to 6.
    """
    x, pick = F.normalize(precise(x), dim=-1), pivot
    rows = torch.arange(len(x), device=x.device)
    total, picks = torch.zeros_like(x[..., 0]), [pick]
    for _ in range(k - 1):
        # A chosen token is never chosen again.
        total = (total + (x @ x[rows, pick][..., None])[..., 0]).scatter(1, pick[:, None], torch.inf)
        pick = total.argmin(1)
        picks.append(pick)
    return torch.stack(picks, 1)


def ratios(attention: Float[Tensor, "b h m m"], n: int, first: int = 0) -> Float[Tensor, "b 2"]:
    """The share of the words' attention that goes to n visual tokens, and that of theirs which goes to words.

    >>> ratios(torch.tensor([[[[1.0, 0.0, 0.0], [0.5, 0.5, 0.0], [0.25, 0.25, 0.5]]]]), n=1, first=1)
    tensor([[0.2500, 0.0000]])

    `first` tokens, a system prompt, stand before the visual ones, and all after them are words. Under a causal mask the
    second share is 0. Source: equation 7. Raises `ValueError` where there are no words, or no visual tokens.
    """
    end, m = first + n, attention.shape[-1]
    if first < 0 or n < 1 or end >= m:
        raise ValueError(f"n={n} and first={first} came for {m} tokens, expected visual tokens and words among them")
    paid = precise(attention).sum(1)
    visual, words = slice(first, end), slice(end, m)
    shares = [paid[:, i, j].sum((1, 2)) / paid[:, i].sum((1, 2)) for i, j in ((words, visual), (visual, words))]
    return torch.stack(shares, 1)


def finished(attention: Float[Tensor, "b h m m"], n: int, *, tau: float = 0.1, first: int = 0) -> Bool[Tensor, "b"]:
    """Stage 2: whether all n visual tokens may go after a layer, since both `ratios` are below tau."""
    return (ratios(attention, n, first) < tau).all(1)


def todre(
    x: Float[Tensor, "b n c"],
    k: int,
    *,
    cls_attention: Float[Tensor, "b h n"] | None = None,
    seed: int = 0,
) -> Kept:
    """Stage 1: keeps the k tokens of the greedy walk, in the order of the input.

    `x` are projected tokens, as the language model reads them, `cls_attention` what CLS pays to them in the encoder's
    last layer, which gives the pivot; without it the pivot is drawn by `seed`. Time n k c, no map of pairs. Raises
    `ValueError` for bad tokens, a k outside 1 to n, and attention of another shape or of no heads.
    """
    check_tokens(x, k)
    b, n, _ = x.shape
    if cls_attention is None:
        drawn = torch.randint(n, (b,), generator=torch.Generator().manual_seed(seed))
        return Reduction.keep(max_sum(x, drawn.to(x.device), k).sort(1).values, n)
    check_signal("cls_attention", cls_attention, (b, None, n))
    if cls_attention.shape[1] == 0:
        raise ValueError("cls_attention of no heads came, expected at least one")
    pivot = precise(cls_attention).sum(1).argmax(1)
    return Reduction.keep(max_sum(x, pivot, k).sort(1).values, n)
