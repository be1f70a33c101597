"""Vision Remember: Alleviating Visual Forgetting in Efficient MLLM with Vision Feature Resample (2025), arXiv
2506.03928.

A projector says a picture in k tokens; between chosen layers of the language model a module lets these, and no word,
look again at what was pooled away. F holds the features of several layers of the encoder for each patch, side by side
in its channels. Each visual token attends to the patches of its own square alone:
x_i = x_i + Attn(Q = x_i, K = V = F of square i), then x_i = x_i + FFN(x_i). Cost: one look at each patch.

Read: abstracts of both versions and short reviews, no code. So these are our choices: the projector (the mean of each
square, then LLaVA's two layers); the encoder's layers 3, 5 and 6 of 6 (the paper: 13, 18 and 23 of 24), each normed by
itself; modules after the second and the fifth of six layers, each with weights of its own; pre-norm, a bottleneck of 96
channels, three heads, a gated feed-forward part; last matrices that begin as zero, so that the language model begins
unchanged. Differs from the paper: our pictures stand before all text, so their tokens never mix with words, and the
second version's attention between visual tokens and the last word before them has nothing to see: left out.
Notebook: notebooks/07_project/08_vision_remember.ipynb.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from minitok.nn import MLP, RMSNorm
from minitok.project import llava
from minitok.project._common import regions
from minitok.vlm import VLM


class Remember(nn.Module):
    """Refreshes k visual tokens from features that lie in r regions: r is k (each its own) or 1 (all see all)."""

    def __init__(self, c: int, d: int, width: int = 96, heads: int = 3, hidden: int = 64) -> None:
        super().__init__()
        self.heads, self.norm1, self.norm2 = heads, RMSNorm(d), RMSNorm(d)
        self.query, self.out = nn.Linear(d, width, bias=False), nn.Linear(width, d, bias=False)
        self.key, self.value = nn.Linear(c, width, bias=False), nn.Linear(c, width, bias=False)
        self.mlp = MLP(d, hidden)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.mlp.out.weight)

    def forward(self, x: Float[Tensor, "b k d"], features: Float[Tensor, "b r m c"]) -> Float[Tensor, "b k d"]:
        q = self.query(self.norm1(x)).unflatten(1, (features.shape[1], -1))  # b r k/r width
        q, key, value = (
            part.unflatten(-1, (self.heads, -1)).flatten(0, 1).transpose(1, 2)  # b*r h k/r or m d
            for part in (q, self.key(features), self.value(features))
        )
        seen = F.scaled_dot_product_attention(q, key, value).transpose(1, 2)
        x = x + self.out(seen.reshape(*x.shape[:2], -1))
        return x + self.mlp(self.norm2(x))


class VisionRemember(nn.Module):
    """k pooled tokens, and one `Remember` after each of the language model's layers in `after`, counted from 0.

    `levels` says after which of the encoder's layers, counted from 0, features are kept. Each token sees its own of
    `seen` regions: k by default; 1 shows all patches to all tokens, the global attention that the paper compares with.
    """

    def __init__(
        self,
        k: int = 16,
        c: int = 192,
        d: int = 192,
        levels: tuple[int, ...] = (2, 4, 5),
        after: tuple[int, ...] = (1, 4),
        seen: int | None = None,
    ) -> None:
        super().__init__()
        if seen not in (None, 1, k):
            raise ValueError(f"seen={seen} came, expected k={k} regions, one a token, or 1 for all")
        self.budgets, self.levels, self.after, self.seen = (k,), levels, after, seen or k
        self.mlp = llava.LLaVA(c, d)
        self.remember = nn.ModuleList(Remember(len(levels) * c, d) for _ in after)

    def forward(self, x: Float[Tensor, "b n c"], k: int | None = None) -> Float[Tensor, "b k d"]:
        """The mean of each square of patches, projected. Raises `ValueError` for a k other than it was built for."""
        if k not in (None, *self.budgets):
            raise ValueError(f"k={k} came, expected {self.budgets[0]}")
        return self.mlp(regions(x, self.budgets[0]).mean(2))

    def features(self, levels: Float[Tensor, "b l n c"]) -> Float[Tensor, "b r m lc"]:
        """What the tokens may look at: the chosen levels side by side, each normed by itself, cut into regions."""
        chosen = F.layer_norm(levels[:, self.levels], levels.shape[-1:])
        return regions(chosen.transpose(1, 2).flatten(2), self.seen)

    def read(
        self,
        host: VLM,
        x: Float[Tensor, "b n c"],
        words: Int[Tensor, "b t"],
        k: int | None = None,
        *,
        slots: Int[Tensor, " t"] | None = None,
        levels: Float[Tensor, "b l n c"],
    ) -> Float[Tensor, "b t d"]:
        """What the language model makes of each word while its visual tokens, and they alone, are refreshed."""
        visual, features = self(x, k), self.features(levels)

        def refresh(i: int, y: Tensor) -> Tensor:
            if i not in self.after:
                return y
            few, rest = y.split([visual.shape[1], y.shape[1] - visual.shape[1]], 1)
            module = self.remember[self.after.index(i)]
            return torch.cat([module(few, features), rest], 1)

        return host.read(visual, words, slots=slots, after_layer=refresh)
