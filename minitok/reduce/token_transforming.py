"""Token Transforming: each old token may go into several new ones.

Zeng, Yu, Kong, Tang: Token Transforming: A Unified and Training-Free Token Compression Framework for Vision Transformer
Acceleration, 2025, arXiv 2506.05709.

Mechanism: any reduction is a product `Y = W X` with W of k rows and n columns, whose rows sum to 1. Pruning has one-hot
rows (one-to-one), merging at most one entry in a column (many-to-one); here columns may have several (many-to-many).
W is built without training: the k tokens with the most attention are anchors, an output each; every other token is
shared out among the anchors by `A_ij = softmax_i(cos(v_i, v_j) / temperature)`, v being the keys averaged over heads;
an anchor goes to itself alone; `W_ij = A_ij s_j / sum_j A_ij s_j` with the sizes s.
Differs from the paper: unknown. Only its abstract, its first figure's caption and its repository, which holds no code,
could be read: the matrix form and "many-to-many" are from there. How anchors are scored, the similarity, the softmax
over anchors, its temperature and the layers are our reading. At temperature 0 in the limit it merges each token into
its nearest anchor.
Notebook: notebooks/06_reduce/05_token_transforming.ipynb
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from minitok.reduce._common import Blended, Reduction, check_signal, check_tokens, highest, precise


def share_out(
    metric: Float[Tensor, "b n d"], anchors: Int[Tensor, "b k"], temperature: float = 0.02
) -> Float[Tensor, "b k n"]:
    """A: which part of each token goes to each anchor; columns sum to 1, and an anchor goes to itself alone.

    >>> metric = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]]])
    >>> share_out(metric, torch.tensor([[0, 1]]), temperature=0.1)
    tensor([[[1.0000, 0.0000, 0.1192],
             [0.0000, 1.0000, 0.8808]]])

    Token 2 has cosines 0.6 and 0.8, so its logits differ by 2. In float32. Raises `ValueError` for vectors that are not
    finite (b, n, d), for anchors as `Reduction.keep` does, and for a temperature that is not above 0.
    """
    check_signal("metric", metric, (None, None, None))
    own = Reduction.keep(anchors, metric.shape[1])
    if not 0 < temperature < math.inf:
        raise ValueError(f"temperature={temperature} came, expected a finite number above 0")
    unit = F.normalize(precise(metric), dim=-1)
    soft = (own.apply(unit) @ unit.mT / temperature).softmax(1)  # b k n
    return torch.where(own.matrix().any(1, keepdim=True), own.matrix().to(soft.dtype), soft)


def token_transforming(
    x: Float[Tensor, "b n c"],
    k: int,
    *,
    cls_attention: Float[Tensor, "b h n"],
    keys: Float[Tensor, "b g n d"] | None = None,
    size: Float[Tensor, "b n"] | None = None,
    temperature: float = 0.02,
) -> Blended:
    """Shares all tokens out among the k that get most attention; outputs stand in the order of their anchors.

    `cls_attention` is what CLS pays to each token, averaged over heads here (a network without CLS: the mean that each
    token receives); `keys` of the attention before tell what is alike (default: the tokens themselves); `size` is how
    many tokens each stands for (default: 1). Of equally attended tokens the lower index counts. Raises `ValueError` for
    a k outside 1 to n, for tokens or signals of other shapes, and for a temperature that is not above 0.
    """
    check_tokens(x, k)
    b, n, _ = x.shape
    check_signal("cls_attention", cls_attention, (b, None, n))
    check_signal("keys", keys := x[:, None] if keys is None else keys, (b, None, n, None))
    check_signal("size", size := torch.ones_like(x[..., 0]) if size is None else size, (b, n))
    anchors = highest(precise(cls_attention).mean(1), k)
    shares = share_out(precise(keys).mean(1), anchors, temperature)
    return Reduction.blend(shares * precise(size)[:, None])
