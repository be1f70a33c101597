"""LLaVA-Mini: Efficient Image and Video Large Multimodal Models with One Vision Token (2025), arXiv 2501.03895.

Compressor: C x C learnt queries Q gather from all patches V by one cross-attention, q = LN(Q) + pos, k = LN(V) + pos,
v = LN(V), and LLaVA's projector follows, the same one that projects V. Modality pre-fusion: N blocks of the language
model's own kind, causal, run on [projected V; compressed tokens; words of the question]. What they say at the
compressed tokens and at the words is all that the language model reads; it never sees V. The answer's words are not
fused: nobody has them when the question is asked.

Differs from the paper: N is 1 (there 4 of 32 layers), its feed-forward part as wide as the tokens; C is 1 by default
(there 2 in the code's default, 1 in the title); the blocks' last matrices begin as zero, so that a language model that
is not trained meets its own words at first; the compressed tokens and the fused words stand where our language
model expects a picture and its words (there from 0 on); one picture, neither crops nor frames.
Notebook: notebooks/07_project/09_llava_mini.ipynb.
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from minitok.nn import LayerNorm, Shape, Transformer
from minitok.project import llava
from minitok.project._common import grid_positions, stretched
from minitok.vlm import VLM


class Compressor(nn.Module):
    """`side * side` learnt queries and one cross-attention."""

    places: Tensor

    def __init__(self, side: int, c: int, heads: int) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.randn(side * side, c) * 0.02)
        self.norm_queries, self.norm = LayerNorm(c), LayerNorm(c)
        self.attention = nn.MultiheadAttention(c, heads, batch_first=True)
        self.register_buffer("places", grid_positions(side, c), persistent=False)

    def forward(self, x: Float[Tensor, "b n c"]) -> Float[Tensor, "b k c"]:
        values = self.norm(x)
        queries = (self.norm_queries(self.queries) + self.places).expand(len(x), -1, -1)
        return self.attention(queries, values + stretched(self.places, x.shape[1]), values, need_weights=False)[0]


class LLaVAMini(nn.Module):
    """k compressed tokens and fused words: what stands before the language model.

    `depth` is the paper's N_f, k its C * C; `kv_heads` and `hidden` (default: `heads` and d) make the blocks smaller.
    Raises `ValueError` for a k that is no square.
    """

    def __init__(
        self,
        k: int = 1,
        c: int = 192,
        d: int = 192,
        depth: int = 1,
        heads: int = 3,
        kv_heads: int | None = None,
        hidden: int | None = None,
    ) -> None:
        super().__init__()
        if k < 1 or math.isqrt(k) ** 2 != k:
            raise ValueError(f"k={k} came, expected a square: the queries are C x C")
        self.budgets, self.d = (k,), d
        self.compressor, self.mlp = Compressor(math.isqrt(k), c, heads), llava.LLaVA(c, d)
        self.blocks = Transformer(Shape(d, depth, heads, kv_heads, hidden or d)).blocks
        for name, weight in self.blocks.named_parameters():
            if ".out." in name:
                nn.init.zeros_(weight)

    def fuse(
        self, x: Float[Tensor, "b n c"], text: Float[Tensor, "b t d"], asked: Bool[Tensor, "b t"]
    ) -> tuple[Float[Tensor, "b k d"], Float[Tensor, "b t d"]]:
        """The compressed tokens and the words as the language model reads them.

        Words that are not `asked` (the filling in front, the answer) are seen by no other, count for no position, and
        come back as they were.
        """
        k, t = self.budgets[0], text.shape[1]
        y = torch.cat([self.mlp(x), self.mlp(self.compressor(x)), text], 1)
        there = F.pad(asked, (y.shape[1] - t, 0), value=True)
        positions = (there.cumsum(1) - 1).float()
        seen = torch.ones(y.shape[1], y.shape[1], dtype=torch.bool, device=y.device).tril() & there[:, None, None]
        for block in self.blocks:
            y = block(y, positions, seen)
        few, words = y[:, -t - k :].split([k, t], 1)
        return few, torch.where(asked[..., None], words, text)

    def forward(self, x: Float[Tensor, "b n c"], k: int | None = None) -> Float[Tensor, "b k d"]:
        """The compressed tokens, which see no word: under the causal mask they stand before them.

        Raises `ValueError` for a k other than it was built for.
        """
        if k not in (None, *self.budgets):
            raise ValueError(f"k={k} came, expected {self.budgets[0]}: so many queries were learnt")
        none = x.new_zeros(len(x), 0, self.d)
        return self.fuse(x, none, none.any(-1))[0]

    def read(
        self,
        host: VLM,
        x: Float[Tensor, "b n c"],
        words: Int[Tensor, "b t"],
        k: int | None = None,
        *,
        slots: Int[Tensor, " t"] | None = None,
        text: Float[Tensor, "b t d"],
        asked: Bool[Tensor, "b t"],
    ) -> Float[Tensor, "b t d"]:
        """What the language model makes of each word: it reads the compressed tokens, then fused words, never V."""
        if k not in (None, *self.budgets):
            raise ValueError(f"k={k} came, expected {self.budgets[0]}: so many queries were learnt")
        few, fused = self.fuse(x, text, asked)
        return host.read(few, words, text=fused, slots=slots)
