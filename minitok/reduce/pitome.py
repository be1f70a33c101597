"""PiToMe: protect informative tokens, merge the rest in the order of their energy.

Tran, D. M. H. Nguyen, D. M. Nguyen, T.-T. Nguyen, Le, Xie, Sonntag, Zou, B. T. Nguyen, Niepert: Accelerating
Transformers with Spectrum-Preserving Token Merging, 2024, arXiv 2405.16148.

Mechanism: to lose r of n tokens, give each an energy `E_i = mean_j f(cos(v_i, v_j) - m)` over all j, where v is the key
averaged over heads and `f(x) = x` for x >= 0, `exp(x) - 1` below (an ELU). A high energy means a large cluster. The
n - 2r tokens of lowest energy are protected: they stay as they are. The other 2r are sorted by energy; even ranks are
set A, odd ranks set B, and every token of A merges into its most similar token of B, as in ToMe, weighed by size. The
margin m falls with depth, `0.9 - 0.9 l/L` at layer l of L.
Differs from the paper: one call may go below half of the tokens, then it starts again with what it has merged; merged
tokens stand where their first part stood (the paper: after the protected ones, by energy). Attention to merged tokens
is proportional to their size, as in the authors' attention module, though their block never hands it the sizes. Their
ViT code protects in only half of the layers; `protect=False` is what it does in the others.
Notebook: notebooks/06_reduce/04_pitome.ipynb
"""

import math
from collections.abc import Callable, Mapping
from functools import partial

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from minitok.nn import Layer
from minitok.reduce._common import Merged, Reduction, ascending, check_signal, precise, repeated, spread
from minitok.reduce.tome import match


def energy(metric: Float[Tensor, "b n d"], margin: float = 0.5) -> Float[Tensor, "b n"]:
    """How large a crowd of similar vectors each one stands in: the mean of ELU(cosine - margin) over all, in float32.

    >>> energy(torch.tensor([[[1.0, 0.0], [2.0, 0.0], [0.0, 3.0]]]), margin=0.0).tolist()[0]
    [0.6666666865348816, 0.6666666865348816, 0.3333333432674408]

    From -0.87 (all opposite, margin 0) to 1 - margin; each counts itself. A zero vector has cosine 0 to all. Source:
    `pitome_vision` of the authors' code (hchautran/PiToMe, algo/pitome/merge.py). Raises `ValueError` for vectors that
    are not finite (b, n, d) and for a margin outside -1 to 1.
    """
    check_signal("metric", metric, (None, None, None))
    if not -1 <= margin <= 1:
        raise ValueError(f"margin={margin} came, expected a cosine from -1 to 1")
    unit = F.normalize(precise(metric), dim=-1)
    return F.elu(unit @ unit.mT - margin).mean(-1)


def merge_crowd(
    metric: Float[Tensor, "b n d"], r: int, margin: float = 0.5, protect: bool = True
) -> Int[Tensor, "b n"]:
    """One step: merges r of the tokens of highest energy; the output of each token, numbered in the input's order.

    >>> metric = torch.tensor([[[0.0, 1.0], [1.0, 0.0], [1.0, 0.1], [0.9, 0.0]]])
    >>> merge_crowd(metric, r=1).tolist()
    [[0, 1, 1, 2]]

    Tokens 1, 2 and 3 crowd, token 0 stands alone and has the lowest energy; the two of highest energy are merged. Of
    equal energies the lower index counts as higher. `protect=False` matches all n tokens, not the top 2r, and merges
    the r most similar pairs. Raises `ValueError` when r is not 1 to half of the tokens, and as `energy` does.
    """
    b, n, d = metric.shape
    rank = energy(metric, margin).argsort(dim=-1, descending=True, stable=True)
    crowd = 2 * r if protect else n
    outputs = match(metric.gather(1, rank[:, :crowd, None].expand(-1, -1, d)), r)
    alone = torch.arange(crowd - r, n - r, device=metric.device).expand(b, -1)
    labels = torch.cat([outputs, alone], dim=1)
    return ascending(torch.empty_like(rank).scatter(1, rank, labels), n - r)


def pitome(
    x: Float[Tensor, "b n c"],
    k: int,
    *,
    keys: Float[Tensor, "b g n d"] | None = None,
    size: Float[Tensor, "b n"] | None = None,
    margin: float = 0.5,
    protect: bool = True,
) -> Merged:
    """Merges tokens that stand in large crowds until k are left, and leaves those that stand alone as they are.

    `keys` of the attention before tell what is alike (default: the tokens themselves), `size` is how many tokens each
    stands for (default: 1), `margin` and `protect` are those of `merge_crowd`. Raises `ValueError` for a k outside 1
    to n, for tokens or signals of other shapes or not finite, for a size that is not above 0, and for a margin outside
    -1 to 1.
    """
    return repeated(partial(merge_crowd, margin=margin, protect=protect), x, k, keys, size)


def falling(
    schedule: Mapping[int, int], layers: int, highest: float = 0.9, protect: bool = True, first: int = 1
) -> Callable[[Layer], Reduction | None]:
    """An `on_layer` as `spread` makes it, whose margin falls from `highest` in layer 0 towards 0 behind the last layer.

    Source: `0.9 - 0.9 l/L` is what the authors' code sets for CLIP and BLIP, 0.75 in place of 0.9 for DeiT and MAE.
    """

    def on_layer(layer: Layer) -> Reduction | None:
        margin = highest * (1 - layer.index / layers)
        return spread(schedule, partial(pitome, margin=margin, protect=protect), first)(layer)

    return on_layer


def by_ratio(n: int, ratio: float, layers: int) -> dict[int, int]:
    """A schedule in which every layer keeps the same share of its tokens: of n, floor(n - n ratio) go.

    >>> by_ratio(256, 0.9, 3)
    {0: 231, 1: 208, 2: 188}

    Raises `ValueError` for a ratio outside 0.5 to 1: the authors' code takes away no more than half at once.
    """
    if not 0.5 <= ratio <= 1:
        raise ValueError(f"ratio={ratio} came, expected 0.5 to 1, the share that a layer keeps")
    left = [n]
    for _ in range(layers):
        left.append(left[-1] - math.floor(left[-1] - left[-1] * ratio))
    return dict(enumerate(left[1:]))


def spectral_distance(metric: Float[Tensor, "b n d"], reduction: Reduction) -> Float[Tensor, "b"]:
    """By how much merging changes the tokens' graph: the sum of the changes of its n sorted eigenvalues.

    The graph has an edge of weight `1 - cos(v_i, v_j)` between any two tokens; its normalised Laplacian is
    `I - D^-1/2 W D^-1/2`. After merging, each token has the mean edges of its cluster. In float64. Source: section 3.3;
    the distance is that of arXiv 1802.04447.
    """
    unit = F.normalize(metric.double(), dim=-1)
    edges = (1 - unit @ unit.mT).clamp(min=0)
    lifted = reduction.restore(reduction.matrix().double())  # b n n: the mean over each token's cluster

    def spectrum(edges: Tensor) -> Tensor:
        scale = edges.sum(-1).clamp(min=1e-9).rsqrt()
        own = torch.eye(edges.shape[-1], dtype=edges.dtype, device=edges.device)
        return torch.linalg.eigvalsh(own - scale[:, :, None] * edges * scale[:, None])

    return (spectrum(edges) - spectrum(lifted @ edges @ lifted.mT)).abs().sum(-1)
