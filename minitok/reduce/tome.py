"""ToMe: token merging by bipartite soft matching.

Bolya, Fu, Dai, Zhang, Feichtenhofer, Hoffman: Token Merging: Your ViT But Faster, 2022, arXiv 2210.09461.

Mechanism (section 3): tokens of even places are set A, those of odd places set B. Each token of A draws an edge to the
most similar token of B, by the cosine of their keys (the mean over heads). The r strongest edges are merged, so r
tokens go. A merged token is the mean of its parts weighed by their sizes s, the numbers of patches that they stand for,
and counts that often in later attention, `softmax(q k / sqrt(d) + log s)`, which `Transformer(on_layer=)` does.
Differs from the paper: one call may go below half of the tokens; then it matches again what it has merged, by merged
keys. What is left stands where its first part stood, where the authors' code lists A's left tokens, then B. CLS does
not come here (`Reduction.beside`), so that A begins with the first patch; in their code it begins with CLS.
Notebook: notebooks/06_reduce/02_tome.ipynb
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from minitok.reduce._common import Merged, ascending, precise, repeated


def match(metric: Float[Tensor, "b n d"], r: int) -> Int[Tensor, "b n"]:
    """One step: which of the n - r outputs each token goes to when the r strongest edges are merged.

    >>> match(torch.tensor([[[1.0, 0.0], [0.0, 1.0], [0.9, 0.1], [1.0, 0.1]]]), r=1).tolist()
    [[0, 1, 2, 2]]

    Tokens 0 and 2 are both most like token 3, and 2 is the nearer. Of equally near ones the lower index counts. Source:
    section 3, bipartite soft matching. Raises `ValueError` for an r outside 1 to half of the tokens.
    """
    n = metric.shape[1]
    if not 1 <= r <= n // 2:
        raise ValueError(f"r={r} came, expected 1 to {n // 2}, half of the {n} tokens")
    metric = F.normalize(precise(metric), dim=-1)
    nearness, partner = (metric[:, ::2] @ metric[:, 1::2].mT).max(-1)
    strongest = nearness.argsort(dim=-1, descending=True, stable=True)[:, :r]
    target = torch.arange(n, device=metric.device).repeat(len(metric), 1)
    target.scatter_(1, 2 * strongest, 2 * partner.gather(1, strongest) + 1)
    # The places that are left, numbered on.
    numbers = torch.ones_like(target).scatter(1, 2 * strongest, 0).cumsum(-1) - 1
    return ascending(numbers.gather(1, target), n - r)


def tome(
    x: Float[Tensor, "b n c"],
    k: int,
    *,
    keys: Float[Tensor, "b g n d"] | None = None,
    size: Float[Tensor, "b n"] | None = None,
) -> Merged:
    """Merges the most similar pairs until k tokens are left.

    >>> x = torch.tensor([[[4.0, 0.0], [8.0, 1.0], [0.0, 2.0], [0.0, 6.0]]])
    >>> tome(x, 2).apply(x).tolist()
    [[[6.0, 0.5], [0.0, 4.0]]]

    `keys` of the attention before say what is similar (default: the tokens themselves), `size` how many patches each
    token stands for (default: 1). Raises `ValueError` for a k outside 1 to n, for tokens or signals of other shapes or
    types or with NaN, and for a size that is not above 0.
    """
    return repeated(match, x, k, keys, size)
