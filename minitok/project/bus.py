"""BUS: Efficient and Effective Vision-language Pre-training with Bottom-Up Patch Summarization (2023),
arXiv 2307.08504.

Extract, then abstract, as one sums up a text. (1) TSPS, a selector inside the ViT: patch v_i and the question t meet in
s_i = sigmoid(MLP([v_i; t])). CLS and the u patches of the highest s stay, in their order; the dropped ones become one
token, sum s_i v_i / sum s_i. The layers that remain run on these. Top-u gives no gradient, so the selector has a loss
of its own, patch-text matching: L = -mean_i [y_i log s_i + (1 - y_i) log(1 - s_i)], y_i = 1 where patch i overlaps the
box of an object that the question names. (2) PAD, a small decoder behind the ViT: m learnt queries, in each layer
self-attention, attention to what was kept, and a feed-forward part, become the m tokens of the summary.

Differs from the paper, of which we could read no more than the abstract and summaries. Ours: the place (after the
attention of the third of six layers), u = 32 of 256, t (the mean of the embedded words), the weights' sum of 1 in the
fused token, overlap by any area, learnt queries, two layers of 96 channels. The encoder and the language model stay
frozen, and its answers' loss stands for ITC, ITM, MLM and PrefixLM.
Notebook: notebooks/07_project/12_bus.ipynb.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from minitok.nn import Layer
from minitok.project import llava
from minitok.vit import ViT
from minitok.vlm import VLM


def patches_of(
    boxes: Float[Tensor, "b m 4"], named: Bool[Tensor, "b m"], side: int = 16, patch: float = 4.0
) -> Bool[Tensor, "b n"]:
    """The labels of patch-text matching: which patches of a side x side grid overlap the box of an object named.

    A box is (left, top, right, bottom) in pixels; one that only touches a patch does not overlap it.

    >>> patches_of(torch.tensor([[[3.0, 0.0, 8.0, 4.0]]]), torch.tensor([[True]]), side=3).int().tolist()
    [[1, 1, 0, 0, 0, 0, 0, 0, 0]]
    """
    left, top, right, bottom = boxes[..., None].unbind(2)
    start = torch.arange(side, device=boxes.device) * patch
    across, down = (left < start + patch) & (right > start), (top < start + patch) & (bottom > start)
    over = (down[..., :, None] & across[..., None, :]).flatten(2)
    return (over & named[..., None]).any(1)


def matching_loss(logits: Float[Tensor, "b n"], labels: Bool[Tensor, "b n"]) -> Float[Tensor, ""]:
    """Patch-text matching: the mean binary cross-entropy of s = sigmoid(logits), in nats.

    >>> matching_loss(torch.zeros(1, 2), torch.tensor([[True, False]])).exp().item()
    2.0
    """
    return F.binary_cross_entropy_with_logits(logits.float(), labels.float())


def select(logits: Float[Tensor, "b n"], u: int) -> Float[Tensor, "b k n"]:
    """Rows that pick the u patches of the highest s, in their order, and one that fuses the rest by their s.

    >>> select(torch.tensor([[0.5, 0.75, 0.5]]).logit(), 1).tolist()
    [[[0.0, 1.0, 0.0], [0.5, 0.0, 0.5]]]

    Of equal ones the lower index is picked. Raises `ValueError` for a u that leaves nothing to pick or to fuse.
    """
    n = logits.shape[1]
    if not 1 <= u < n:
        raise ValueError(f"u={u} came, expected 1 to {n - 1} of {n} patches")
    kept = logits.argsort(dim=1, descending=True, stable=True)[:, :u].sort(1).values
    weights = F.logsigmoid(logits.float()).scatter(1, kept, -torch.inf).softmax(1)
    return torch.cat([F.one_hot(kept, n).to(weights.dtype), weights[:, None]], 1)


class Selector(nn.Module):
    """TSPS: how well each patch fits the question, as a logit; the MLP's first matrix is cut in two, for v and t."""

    def __init__(self, c: int = 192, d: int = 192, hidden: int = 192) -> None:
        super().__init__()
        self.norm, self.norm_text = nn.LayerNorm(c), nn.LayerNorm(d)
        self.see, self.hear, self.out = nn.Linear(c, hidden), nn.Linear(d, hidden, bias=False), nn.Linear(hidden, 1)

    def forward(
        self, x: Float[Tensor, "b n c"], text: Float[Tensor, "b t d"], asked: Bool[Tensor, "b t"]
    ) -> Float[Tensor, "b n"]:
        words = asked[..., None].to(text.dtype)
        t = (text * words).sum(1) / words.sum(1).clamp(min=1)
        return self.out(F.gelu(self.see(self.norm(x)) + self.hear(self.norm_text(t))[:, None]))[..., 0]


class Gather(nn.Module):
    """Tokens x gather from tokens y, by heads."""

    def __init__(self, width: int, seen: int, heads: int) -> None:
        super().__init__()
        self.heads, self.query, self.out = heads, nn.Linear(width, width), nn.Linear(width, width)
        self.key, self.value = nn.Linear(seen, width), nn.Linear(seen, width)

    def forward(self, x: Float[Tensor, "b m c"], y: Float[Tensor, "b n e"]) -> Float[Tensor, "b m c"]:
        parts = self.query(x), self.key(y), self.value(y)
        q, key, value = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in parts)
        return self.out(F.scaled_dot_product_attention(q, key, value).transpose(1, 2).flatten(2))


class Abstraction(nn.Module):
    """A layer of PAD: queries look at one another, then at the patches kept, then think; each part adds to them."""

    def __init__(self, width: int, seen: int, heads: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(3))
        self.among, self.into = Gather(width, width, heads), Gather(width, seen, heads)
        self.think = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, q: Float[Tensor, "b m c"], kept: Float[Tensor, "b n e"]) -> Float[Tensor, "b m c"]:
        normed = self.norms[0](q)
        q = q + self.among(normed, normed)
        q = q + self.into(self.norms[1](q), kept)
        return q + self.think(self.norms[2](q))


@dataclass(frozen=True)
class Short:
    """What `on_layer` returns: CLS, the patches kept, and the fused one, which weighs no more than they do."""

    matrix: Float[Tensor, "b k n"]

    def apply(self, x: Float[Tensor, "b n c"]) -> Float[Tensor, "b k c"]:
        return self.matrix.to(x.dtype) @ x

    def sizes(self, size: Float[Tensor, "b n"]) -> Float[Tensor, "b k"]:
        return size.new_ones(self.matrix.shape[:2])


class BUS(nn.Module):
    """m tokens about what the question asks for, whatever else is in the picture; u patches pass `layer` of the ViT.

    c is the encoder's width, d that of the language model and of its embedded words.
    """

    def __init__(
        self, m: int = 16, c: int = 192, d: int = 192, *, u: int = 32, layer: int = 2, width: int = 96, heads: int = 3
    ) -> None:
        super().__init__()
        self.budgets, self.u, self.layer = (m,), u, layer
        self.selector, self.queries = Selector(c, d), nn.Parameter(torch.randn(m, width) * 0.02)
        self.decoder = nn.ModuleList(Abstraction(width, c, heads) for _ in range(2))
        self.norm, self.mlp = nn.LayerNorm(width), llava.LLaVA(width, d)

    def summary(self, kept: Float[Tensor, "b n c"], k: int | None = None) -> Float[Tensor, "b k d"]:
        """PAD: the m tokens of the summary of what was kept. Raises `ValueError` for a k other than m."""
        if k not in (None, *self.budgets):
            raise ValueError(f"k={k} came, expected one of {self.budgets}")
        q = self.queries.expand(len(kept), -1, -1)
        for layer in self.decoder:
            q = layer(q, kept)
        return self.mlp(self.norm(q))

    def forward(
        self,
        x: Float[Tensor, "b n c"],
        k: int | None = None,
        *,
        text: Float[Tensor, "b t d"],
        asked: Bool[Tensor, "b t"],
    ) -> Float[Tensor, "b k d"]:
        """Selects behind the encoder, among features that are there already, and sums them up."""
        return self.summary(select(self.selector(x, text, asked), self.u).to(x.dtype) @ x, k)

    def scores(self, layer: Layer, text: Float[Tensor, "b t d"], asked: Bool[Tensor, "b t"]) -> Float[Tensor, "b n"]:
        """What decides, as logits, from what a layer of the ViT shows; CLS is not judged."""
        return self.selector(layer.hidden[:, 1:], text, asked)

    def see(
        self, vit: ViT, images: Float[Tensor, "b 3 H W"], text: Float[Tensor, "b t d"], asked: Bool[Tensor, "b t"]
    ) -> Float[Tensor, "b k c"]:
        """The output of a ViT whose later layers run on CLS, the u patches kept and the fused one, in this order."""

        def short(layer: Layer) -> Short | None:
            if layer.index != self.layer:
                return None
            rows = F.pad(select(self.scores(layer, text, asked), self.u), (1, 0, 1, 0))
            rows[:, 0, 0] = 1  # CLS stays
            return Short(rows)

        return vit.tokens(images, short)

    def read(
        self,
        host: VLM,
        x: Float[Tensor, "b n c"],
        words: Int[Tensor, "b t"],
        k: int | None = None,
        *,
        images: Float[Tensor, "b 3 H W"],
        text: Float[Tensor, "b t d"],
        asked: Bool[Tensor, "b t"],
        slots: Int[Tensor, " t"] | None = None,
    ) -> Float[Tensor, "b t d"]:
        """Selects inside the host's ViT, which looks anew for each question; x, seen without one, is not used."""
        return host.read(self.summary(self.see(host.vit, images, text, asked), k), words, slots=slots)
