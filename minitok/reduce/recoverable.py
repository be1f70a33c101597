"""Recoverable Compression: what CLS looks at, what the question's text asks back, and the rest merged.

Chen, Xu, Zhang, Liu, Liu, Liu: Recoverable Compression: A Multimodal Vision Token Recovery Mechanism Guided by Text
Information, 2024, arXiv 2409.01179.

Mechanism, before the language model: scores whose Local Outlier Factor (LOF, 20 neighbours on the line) is above 1.5
are outliers, and only their number counts. v = outliers of the CLS attention a: keep the v highest. t = outliers of
the cosines with the text, what is kept set to the lowest: recover the t highest. m = outliers (10 neighbours) of the
attention a of what is left: its m highest are centres. Each takes the 32 of the others left whose `cos(key, key of
the centre) + 1.8 cos(text)` is highest, with weights a. One token more is the mean of all that is neither, by a.
The text is compared with `shared`: the tokens in the text's space, which a CLIP has and a language model need not.
Differs from the paper: merged tokens are means, `(x_i + sum a_j x_j) / (1 + sum a_j)`; there they are sums. Its code
looks keys up by places among what is left and multiplies the share of outliers by the width of the features for m;
here keys are the tokens' own and m is the number of outliers. Kept tokens and centres stand in the order of the input.
A given k is shared out as v : t : m. Its text is one vector; several are a mean direction here. 1.8 is 50 / sqrt(768).
Notebook: notebooks/06_reduce/18_recoverable.ipynb
"""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from minitok.reduce._common import Blended, Kept, Reduction, check_asked, check_signal, check_tokens, precise
from minitok.reduce._outliers import lof, outliers

__all__ = ["budget", "lof", "merge", "outliers", "recoverable", "shared_out", "similarity", "split", "top"]

VISUAL, REST, PARTNERS, LEAN = 20, 10, 32, 50 / 768**0.5


def top(scores: Float[Tensor, "b n"], counts: Int[Tensor, "b"]) -> Bool[Tensor, "b n"]:
    """The highest of each row, as many as it says; of equal scores the lower index.

    >>> top(torch.tensor([[0.2, 0.9, 0.2], [0.1, 0.0, 0.3]]), torch.tensor([2, 1])).int().tolist()
    [[1, 1, 0], [0, 0, 1]]
    """
    return scores.argsort(dim=-1, descending=True, stable=True).argsort(-1) < counts[:, None]


def similarity(
    x: Float[Tensor, "b n c"], text: Float[Tensor, "b t c"], asked: Bool[Tensor, "b t"] | None = None
) -> Float[Tensor, "b n"]:
    """The cosine of each token with the mean direction of those of the text's words that are `asked` (default: all)."""
    words = F.normalize(precise(text), dim=-1)
    if asked is not None:
        words = words * asked[..., None]
    return (F.normalize(precise(x), dim=-1) @ F.normalize(words.sum(1), dim=-1)[..., None])[..., 0]


def split(attention: Float[Tensor, "b n"], similar: Float[Tensor, "b n"]) -> Int[Tensor, "b 3"]:
    """How many tokens of each row are kept for CLS, recovered for the text, and centres of what is merged.

    `attention` is what CLS pays, `similar` the cosines with the text. The token of all the rest is not counted.
    """
    n = attention.shape[1]
    visual = outliers(attention, VISUAL)
    kept = top(attention, visual)
    lowest = similar.amin(-1, keepdim=True)
    text = (n - visual) * outliers(torch.where(kept, lowest, similar), VISUAL) // n
    kept |= top(similar.masked_fill(kept, -torch.inf), text)
    return torch.stack([visual, text, outliers(attention, REST, ~kept)], 1)


def budget(
    x: Float[Tensor, "b n c"],
    *,
    cls_attention: Float[Tensor, "b h n"],
    text: Float[Tensor, "b t e"],
    asked: Bool[Tensor, "b t"] | None = None,
    shared: Float[Tensor, "b n e"] | None = None,
) -> Int[Tensor, "b"]:
    """The number of tokens that the paper's rule leaves of each row: the `split`, and one of all the rest."""
    found = split(precise(cls_attention).mean(1), similarity(x if shared is None else shared, text, asked))
    return (found.sum(1) + 1).clamp(max=x.shape[1])


def shared_out(counts: Int[Tensor, "b 3"], k: int) -> Int[Tensor, "b 3"]:
    """So many in all, in the proportions of these counts; all to the first where they are nothing.

    >>> shared_out(torch.tensor([[6, 3, 1], [0, 0, 0]]), 5).tolist()
    [[3, 1, 1], [5, 0, 0]]

    Running sums are rounded, a half to the even.
    """
    counts = torch.where(counts.sum(1, keepdim=True) > 0, counts, torch.tensor([1, 0, 0], device=counts.device))
    edges = (k * counts.cumsum(1) / counts.sum(1, keepdim=True)).round().long()
    return edges.diff(dim=1, prepend=torch.zeros_like(edges[:, :1]))


def recoverable(
    x: Float[Tensor, "b n c"],
    k: int,
    *,
    cls_attention: Float[Tensor, "b h n"],
    keys: Float[Tensor, "b g n d"],
    text: Float[Tensor, "b t e"],
    asked: Bool[Tensor, "b t"] | None = None,
    shared: Float[Tensor, "b n e"] | None = None,
) -> Blended | Kept:
    """Leaves k - 1 tokens that are kept, recovered or centres, in the order of the input, then one of all the rest.

    `cls_attention` and `keys` are those of the encoder's last layer, `text` embeds the question, `asked` says which of
    its places are words, `shared` are the tokens in the space of the text (default: x, where that is their space).
    `budget` gives the paper's own k; for k = n nothing is merged. Raises `ValueError` for bad tokens, a k outside 1 to
    n, and signals of another shape or of nothing.
    """
    check_tokens(x, k)
    shared = x if shared is None else shared
    b, n, e = shared.shape
    check_signal("shared", shared, (len(x), x.shape[1], None))
    for name, signal, shape in (
        ("cls_attention", cls_attention, (b, None, n)),
        ("keys", keys, (b, None, n, None)),
        ("text", text, (b, None, e)),
    ):
        check_signal(name, signal, shape)
        if 0 in signal.shape[1:]:
            raise ValueError(f"{name} of shape {tuple(signal.shape)} came, expected at least one of each")
    if asked is not None:
        check_asked(asked, (b, text.shape[1]))
    if int(k) == n:
        return Reduction.keep(torch.arange(n, device=x.device).expand(b, -1), n)
    attention, similar = precise(cls_attention).mean(1), similarity(shared, text, asked)
    visual, recovered, merged = shared_out(split(attention, similar), int(k) - 1).unbind(1)
    kept = top(attention, visual)
    kept = kept | top(similar.masked_fill(kept, -torch.inf), recovered)
    centres = top(attention.masked_fill(kept, -torch.inf), merged)
    return Reduction.blend(merge(attention, keys, similar, kept, centres, int(k)))


def merge(
    attention: Float[Tensor, "b n"],
    keys: Float[Tensor, "b g n d"],
    similar: Float[Tensor, "b n"],
    kept: Bool[Tensor, "b n"],
    centres: Bool[Tensor, "b n"],
    k: int,
) -> Float[Tensor, "b k n"]:
    """The weights of each output: of a kept token only itself, of a centre its partners too, then of all the rest."""
    n = attention.shape[1]
    weight = attention.clamp(min=torch.finfo(attention.dtype).tiny)
    index = (kept | centres).float().argsort(dim=-1, descending=True, stable=True)[:, : k - 1]
    metric = F.normalize(precise(keys).transpose(1, 2).flatten(2), dim=-1)
    near = metric.gather(1, index[..., None].expand(-1, -1, metric.shape[2])) @ metric.mT + LEAN * similar[:, None]
    itself = F.one_hot(index, n).bool()
    near = near.masked_fill(kept[:, None] | itself, -torch.inf)
    partners = near.argsort(dim=-1, descending=True, stable=True).argsort(-1) < PARTNERS
    partners &= near.isfinite() & centres.gather(1, index)[..., None]
    rest = weight * ~(kept | centres)
    return torch.cat([itself + partners * weight[:, None], rest[:, None]], 1)
