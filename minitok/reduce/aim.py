"""AIM: merge visual tokens before the language model, then prune them layer by layer as PageRank ranks them.

Zhong, Liu, Li, Wang: AIM: Adaptive Inference of Multi-Modal LLMs via Token Merging and Pruning, 2024, arXiv 2412.03248.

Mechanism: (a) before the language model, ToMe's matching in rounds that halve the tokens, by the cosine of the tokens
themselves; a merged token is the plain mean of what meets in its round, whatever that stood for. (b) In each layer of a
falling schedule, the attention logits L of all tokens give `M = softmax(L / 0.1)`; from p = 1 / m for all m tokens five
steps `p <- p M` a head, and the importance is `sqrt(mean over heads of p^2)`. All words stay; layer l, from `first` to
`last`, leaves the share `1 - (l - first + 1) / (last - first + 1)` of the visual tokens: none behind the last.
Differs from the paper: `softmax(L / t)` comes from the attention A itself, whose power `A^(1 / t)` it is, row by row.
Removed tokens are gone, where the code masks them and lets them pay on. What is left stands where its first part stood
(in the code, set A's unmerged tokens by similarity, then B, numbered anew). `merge` takes any k: its last round may be
short of a half.
Notebook: notebooks/06_reduce/22_aim.ipynb
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from minitok.checks import whole
from minitok.reduce._common import Kept, Merged, Reduction, ascending, check_signal, check_tokens, highest, precise
from minitok.reduce.tome import match


def merge(x: Float[Tensor, "b n c"], k: int) -> Merged:
    """Halves the tokens again and again until k are left; each round takes plain means of what is there.

    >>> x = torch.tensor([[[6.0, 0.0], [8.0, 1.0], [3.0, 0.0], [3.0, 0.0]]])
    >>> merge(x, 1).apply(x).tolist()
    [[[6.0, 0.5]]]

    Tokens 0, 2 and 3 meet in the first round; in the second their mean (4, 0) counts as much as token 1.
    Raises `ValueError` for bad tokens and a k outside 1 to n.
    """
    check_tokens(x, k)
    metric = precise(x)
    weights = torch.ones_like(metric[..., 0])
    assignment = torch.arange(x.shape[1], device=x.device).expand(len(x), -1)
    while (left := metric.shape[1]) > k:
        r = min(left - k, left // 2)
        made = Reduction.merge(as_listed(match(metric, r), left - r), left - r)
        among = made.totals()[..., 0].gather(1, made.assignment)
        weights = weights / among.gather(1, assignment)
        assignment = made.assignment.gather(1, assignment)
        metric = made.apply(metric)
    return Reduction.merge(ascending(assignment, k), k, weights)


def as_listed(assignment: Int[Tensor, "b n"], k: int) -> Int[Tensor, "b n"]:
    """A round's outputs numbered as the code lists them: what is left of the even places, then the odd places.

    >>> as_listed(torch.tensor([[0, 1, 2, 0]]), 3).tolist()
    [[2, 1, 0, 2]]

    So it is known who is even and who is odd in the next round.
    """
    n = assignment.shape[1]
    place = torch.arange(n, device=assignment.device)
    key = torch.where(place % 2 == 1, n + place, place).expand_as(assignment)
    last = torch.zeros_like(assignment[:, :k]).scatter_reduce(1, assignment, key, "amax")
    return last.argsort(-1).argsort(-1).gather(1, assignment)


def pagerank(payments: Float[Tensor, "b h m m"], temperature: float = 0.1, steps: int = 5) -> Float[Tensor, "b m"]:
    """The importance of each of m tokens: where attention leads after some steps from anywhere.

    >>> pagerank(torch.tensor([[[[1.0, 0.0], [0.5, 0.5]]]]), temperature=1.0, steps=2)
    tensor([[0.8750, 0.1250]])

    `payments` are an attention map's, after its softmax: token 1 keeps half of what it holds in each step and pays half
    to token 0. A row of zeros pays nothing. Raises `ValueError` for a map that is not square or of no heads, a
    temperature that is not above 0, and steps below 0.
    """
    check_signal("payments", payments, (None, None, payments.shape[-1], payments.shape[-1]))
    if payments.shape[1] == 0:
        raise ValueError("payments of no heads came, expected at least one")
    if not 0 < temperature < torch.inf:
        raise ValueError(f"temperature={temperature} came, expected a number above 0")
    whole("steps", steps, 0)
    # softmax(L / t) = A^(1 / t), row by row; in parts of each row's largest, so that no power vanishes.
    flow = precise(payments)
    smallest = torch.finfo(flow.dtype).tiny
    flow = (flow / flow.amax(-1, keepdim=True).clamp(min=smallest)) ** (1 / temperature)
    flow = flow / flow.sum(-1, keepdim=True).clamp(min=smallest)
    p = torch.full_like(flow[:, :, :1], 1 / flow.shape[-1])
    for _ in range(steps):
        p = p @ flow
    return p[:, :, 0].square().mean(1).sqrt()


def falling_shares(layers: int, first: int, last: int) -> dict[int, float]:
    """What share of the visual tokens stays after each layer from `first` on; none from `last` on.

    >>> falling_shares(layers=6, first=2, last=5)
    {2: 0.75, 3: 0.5, 4: 0.25, 5: 0.0}

    The paper: 28 layers, from 14 to 21. Raises `ValueError` unless 0 <= first <= last < layers.
    """
    if not 0 <= first <= last < layers:
        raise ValueError(f"first={first} and last={last} came, expected 0 <= first <= last < {layers}")
    return {layer: 1 - (layer - first + 1) / (last - first + 1) for layer in range(first, last + 1)}


def aim(
    x: Float[Tensor, "b n c"],
    k: int,
    *,
    payments: Float[Tensor, "b h m m"],
    temperature: float = 0.1,
    steps: int = 5,
) -> Kept:
    """Inside the language model: keeps the k visual tokens of highest importance, in their order.

    `payments` are the attention of all m tokens of the layer, the n visual ones first (roll a system prompt behind
    them: who pays to whom is all that counts). Of equal importance the lower index counts. Before the language model,
    call `merge`. Raises `ValueError` for bad tokens, a k outside 1 to n, a map that is not square or holds fewer than n
    tokens, a temperature that is not above 0, and steps below 0.
    """
    check_tokens(x, k)
    b, n, _ = x.shape
    check_signal("payments", payments, (b, None, payments.shape[-1], payments.shape[-1]))
    if payments.shape[-1] < n:
        raise ValueError(f"payments of {payments.shape[-1]} tokens came, expected at least the {n} of x")
    return Reduction.keep(highest(pagerank(payments, temperature, steps)[:, :n], k), n)
