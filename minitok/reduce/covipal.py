"""CoViPAL: a small trained module reads picture and question, and says before the model which patches it will need.

Tang, Ma, Wang, Li, Zhang, Zhao, Li, Wang: CoViPAL: Layer-wise Contextualized Visual Token Pruning for Large
Vision-Language Models, 2025, arXiv 2508.17243.

Mechanism: a plug-and-play pruning module gives each visual token a score, `S = p(H_v, H_t)`, from visual and text
states before a layer; the k highest stay, at their places. The model is frozen; the module is trained in two stages.
(1) It learns the attention that each visual token receives in a deeper guide layer, summed over heads, of the unpruned
model. (2) End to end: nothing is dropped, but the logarithm of each token's retention, which is on average the share
of tokens to be kept, is added to the logits of its *key* in all layers, and the loss of the answers trains the module.
Differs from the paper: its abstract, a review and others' comments could be read, not its equations or its code. Ours
are: the module (each visual token looks at the words in two heads, then two layers score it), the last layer as guide
and the last word as payer, the loss of stage 1 (squares, of the attention divided by its largest), and the retention
`sigmoid((S - tau) / T)`, whose threshold tau holds the mean, with T = 1/4 and a share drawn anew in each step, so that
one module serves all k. One module, before the first layer.
Notebook: notebooks/06_reduce/21_covipal.ipynb
"""

from typing import cast

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from minitok.attention import visible
from minitok.nn import Block, Transformer
from minitok.reduce._common import Kept, Reduction, check_asked, check_signal, check_tokens, highest, precise

TEMPERATURE = 0.25


def guide_target(paid: Float[Tensor, "b h n"]) -> Float[Tensor, "b n"]:
    """What visual tokens are paid in the guide layer, summed over heads, as a share of the largest.

    >>> guide_target(torch.tensor([[[0.1, 0.3, 0.0], [0.1, 0.5, 0.4]]]))
    tensor([[0.2500, 1.0000, 0.5000]])
    """
    total = precise(paid).sum(1)
    return total / total.amax(1, keepdim=True)


def guide_loss(scores: Float[Tensor, "b n"], paid: Float[Tensor, "b h n"]) -> Tensor:
    """Stage 1: the mean square of what is between `sigmoid(scores)` and `guide_target(paid)`."""
    return F.mse_loss(scores.sigmoid(), guide_target(paid))


def threshold(scores: Float[Tensor, "b n"], share: float, temperature: float = TEMPERATURE) -> Float[Tensor, "b 1"]:
    """The tau that makes the mean of `sigmoid((scores - tau) / temperature)` the share, which is between 0 and 1.

    >>> threshold(torch.tensor([[0.0, 4.0]]), 0.5).round(decimals=3).tolist()
    [[2.0]]

    Found by halving an interval; its gradient is that of the tau which it stands for.
    """
    with torch.no_grad():
        low = scores.amin(1, keepdim=True) - 20 * temperature
        high = scores.amax(1, keepdim=True) + 20 * temperature
        for _ in range(40):
            middle = (low + high) / 2
            more = ((scores - middle) / temperature).sigmoid().mean(1, keepdim=True) > share
            low, high = torch.where(more, middle, low), torch.where(more, high, middle)
        kept = ((scores - high) / temperature).sigmoid()
        weight = (kept * (1 - kept)).clamp(min=1e-9)
        weight = weight / weight.sum(1, keepdim=True)
    return high + (weight * (scores - scores.detach())).sum(1, keepdim=True)


def retention(scores: Float[Tensor, "b n"], share: float, temperature: float = TEMPERATURE) -> Float[Tensor, "b n"]:
    """Log-retention: `log sigmoid((scores - tau) / temperature)`, whose mean without the logarithm is the share.

    >>> retention(torch.tensor([[0.0, 1.0, 5.0, 6.0]]), 0.5).exp().round(decimals=2).tolist()
    [[0.0, 0.0, 1.0, 1.0]]
    """
    return F.logsigmoid((scores - threshold(scores, share, temperature)) / temperature)


def softly(kept: Float[Tensor, "b n"], m: int) -> Float[Tensor, "b 1 m m"]:
    """What is added to the attention's logits of m tokens, visual ones first: log-retention on keys, a causal mask.

    >>> softly(torch.tensor([[-2.0]]), 2).tolist()
    [[[[-2.0, -inf], [-2.0, 0.0]]]]
    """
    seen = visible("causal", m, m, kept.device)
    bias = F.pad(kept, (0, m - kept.shape[1]))[:, None, None].expand(-1, 1, m, m)
    return bias if seen is None else bias.masked_fill(~seen, -torch.inf)


def read_softly(
    lm: Transformer, x: Float[Tensor, "b m c"], positions: Float[Tensor, "#b m"], kept: Float[Tensor, "b n"]
) -> Float[Tensor, "b m c"]:
    """Stage 2: what a causal language model makes of x, whose first n keys count by their log-retention."""
    bias = softly(kept, x.shape[1])
    with sdpa_kernel(SDPBackend.MATH):  # not every kernel passes gradients on to what is added
        for block in cast("list[Block]", lm.blocks):
            x = block(x, positions, bias)
    return lm.norm(x)


class PruningModule(nn.Module):
    """Scores visual tokens in the light of a question: 54 thousand weights for states of 192 channels."""

    def __init__(self, width: int, hidden: int = 64, heads: int = 2) -> None:
        super().__init__()
        self.heads = heads
        self.visual = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, hidden))
        self.words = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 2 * hidden))
        self.query = nn.Linear(hidden, hidden)
        self.score = nn.Sequential(nn.Linear(3 * hidden, hidden), nn.GELU(), nn.Linear(hidden, 1))

    def forward(
        self, visual: Float[Tensor, "b n c"], text: Float[Tensor, "b t c"], asked: Bool[Tensor, "b t"]
    ) -> Float[Tensor, "b n"]:
        """The scores; `asked` says which words are there."""
        seen = self.visual(visual)
        states = (self.query(seen), *self.words(text).chunk(2, -1))
        q, k, v = (state.unflatten(-1, (self.heads, -1)).transpose(1, 2) for state in states)
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=asked[:, None, None])
        heard = mixed.transpose(1, 2).flatten(2)
        return self.score(torch.cat([seen, heard, seen * heard], -1))[..., 0]


def covipal(
    x: Float[Tensor, "b n c"],
    k: int,
    *,
    text: Float[Tensor, "b t c"],
    asked: Bool[Tensor, "b t"],
    module: PruningModule,
) -> Kept:
    """Keeps the k visual tokens that a trained module scores highest, in their order.

    `text` is the words as the layer would get them, `asked` which of them are words and not filling. Of equal scores
    the lower index counts. Raises `ValueError` for bad tokens, a k outside 1 to n, text of another shape, and a row
    that asks nothing.
    """
    check_tokens(x, k)
    b, n, c = x.shape
    check_signal("text", text, (b, None, c))
    check_asked(asked, (b, text.shape[1]))
    return Reduction.keep(highest(module(precise(x), precise(text), asked), k), n)
