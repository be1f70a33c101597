"""FastV: inside the language model, keep the visual tokens that are looked at.

Chen, Zhao, Liu, Bai, Lin, Zhou, Chang: An Image is Worth 1/2 Tokens After Layer 2: Plug-and-Play Inference Acceleration
for Large Vision-Language Models, 2024, arXiv 2403.06764.

Mechanism (section 4): the first K layers of the language model run on everything. With the attention A (heads, payers,
tokens) of the last of them, each visual token j gets a score, `phi_j = mean over heads and payers i of A[h, i, j]`; the
share R of visual tokens with the lowest scores is dropped, K = 2 and R = 50 % in the paper. All words stay, and what is
kept keeps its position. Later layers, and the cache of later words, hold only what was kept. Nothing is trained.
Differs from the paper: it says that all other tokens pay; the released code asks the last token alone. Here `payers`
chooses, and the code's way is the default, since a causal model counts early tokens more often (a fault that the lesson
shows). The paper drops behind layer K; here the cut is between its attention and its feed-forward part, which works on
each token by itself, so kept tokens do not change and the dropped ones save it too. A share R is a count k here.
Notebook: notebooks/06_reduce/03_fastv.ipynb
"""

from jaxtyping import Float
from torch import Tensor

from minitok.reduce._common import Kept, Reduction, check_signal, check_tokens, highest, precise

PAYERS = ("last", "all")


def scores(paid: Float[Tensor, "b h m n"], payers: str = "last") -> Float[Tensor, "b n"]:
    """What each of n tokens is paid, as the mean over heads, by the last of m payers or on average by all.

    >>> import torch
    >>> scores(torch.tensor([[[[0.6, 0.4, 0.0], [0.1, 0.2, 0.5]]]]), "all")
    tensor([[0.3500, 0.3000, 0.2500]])

    In float32 or finer. Raises `ValueError` for other payers.
    """
    if payers not in PAYERS:
        raise ValueError(f"payers={payers!r} came, expected one of {PAYERS}")
    rows = paid[:, :, -1:] if payers == "last" else paid
    return precise(rows).mean((1, 2))


def fastv(x: Float[Tensor, "b n c"], k: int, *, paid: Float[Tensor, "b h m n"], payers: str = "last") -> Kept:
    """Keeps the k visual tokens that are paid most attention, in their order.

    `paid` is what m tokens of the layer pay to the n visual ones, in a model of Hugging Face's
    `output.attentions[K - 1][..., start : start + n]`; the last of them stands last, and for `payers="all"` the visual
    tokens' own rows belong to them, as in the paper. Of equal scores the lower index counts. Raises `ValueError` for
    bad tokens, a k outside 1 to n, attention of another shape or of nobody, and for other payers.
    """
    check_tokens(x, k)
    b, n, _ = x.shape
    check_signal("paid", paid, (b, None, None, n))
    if 0 in paid.shape[1:3]:
        raise ValueError(f"paid of shape {tuple(paid.shape)} came, expected at least one head and one payer")
    return Reduction.keep(highest(scores(paid, payers), k), n)
