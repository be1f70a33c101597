"""CrossLMM: Decoupling Long Video Sequences from LMMs via Dual Cross-Attention Mechanisms (2025), arXiv 2505.17020.

Each of a clip's F frames of n patches is pooled to m tokens. One MLP leads both into the language model's width:
P = mlp(pool(x)) with F m tokens, V = mlp(x) with F n. The model reads [P, T], T the question's words; V stays outside.
After chosen layers both look back at all of V, each through its own residual cross-attention with a gate g:
P <- P + g CA(P, V)  (visual to visual, V2V),  T <- T + g CA(T, V)  (text to visual, T2V),
CA(q, V) = softmax(q W_q (V W_k)^T / sqrt(d)) V W_v W_o. With g = 0 the model is the one that reads [P, T] alone.
Self-attention costs (F m + t)^2 in place of (F n + t)^2; looking back costs (F m + t) F n a time.

Differs from the paper, of which only the abstract and public reviews could be read: the layers (after the second and
the fourth of six), a gate of its own for each look, which begins at 0, the norms before queries and keys, and V's keys
and values, which all looks share, are our choices, as is a learnt vector for each frame; language model and encoder
are frozen, where the paper tunes them. It pools 27 x 27 patches to 1, 9 or 16 tokens; ours are 16 x 16: 1, 4 or 16.
Notebook: notebooks/07_project/10_crosslmm.ipynb.
"""

import functools
import math

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from minitok.vlm import VLM

PATCHES = 256  # of a frame
Memory = tuple[Tensor, Tensor]


def pooled(x: Float[Tensor, "b n c"], frames: int, m: int) -> Float[Tensor, "b k c"]:
    """The means of m equal squares of each frame's grid of patches: frame by frame, each in raster order.

    >>> x = torch.arange(16.0).view(1, 16, 1)
    >>> pooled(x, 1, 4).flatten().tolist(), pooled(x, 4, 1).flatten().tolist()
    ([2.5, 4.5, 10.5, 12.5], [1.5, 5.5, 9.5, 13.5])

    Raises `ValueError` where frames or squares do not share out.
    """
    n = x.shape[1] // max(frames, 1)
    side, few = math.isqrt(n), math.isqrt(max(m, 0))
    if frames < 1 or frames * side**2 != x.shape[1] or few < 1 or few**2 != m or side % few:
        raise ValueError(f"frames={frames} of m={m} tokens came for {x.shape[1]} patches: no equal squares")
    grid = x.unflatten(1, (frames, few, side // few, few, side // few))
    return grid.mean((3, 5)).flatten(1, 3)


class LookBack(nn.Module):
    """One cross-attention to what is remembered of a clip, behind a gate: x + g CA(norm(x), V)."""

    def __init__(self, d: int, heads: int) -> None:
        super().__init__()
        self.heads, self.norm = heads, nn.LayerNorm(d)
        self.query, self.out = nn.Linear(d, d, bias=False), nn.Linear(d, d, bias=False)
        self.gate = nn.Parameter(torch.zeros(()))

    def forward(self, x: Float[Tensor, "b t d"], memory: Memory) -> Float[Tensor, "b t d"]:
        query = self.query(self.norm(x)).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        found = F.scaled_dot_product_attention(query, *memory)
        return x + self.gate * self.out(found.transpose(1, 2).flatten(2))


class CrossLMM(nn.Module):
    """Frames of 256 patches become m tokens each, and the language model looks back at the patches.

    `v2v` and `t2v` name the layers, 0 the first, after which the visual tokens and the words look back: none, and the
    module is a pooling projector. `hidden` is the width inside the MLP. A clip of F frames can have k = 16 F, 4 F or F
    tokens (the paper's N = 256, m = k / F).
    """

    budgets = (16, 4, 1)  # of a single frame

    def __init__(
        self,
        v2v: tuple[int, ...] = (1, 3),
        t2v: tuple[int, ...] = (1, 3),
        hidden: int = 192,
        c: int = 192,
        d: int = 192,
        heads: int = 3,
        frames: int = 8,
    ) -> None:
        super().__init__()
        self.heads = heads
        self.mlp = nn.Sequential(nn.Linear(c, hidden), nn.GELU(), nn.Linear(hidden, d))
        self.frame = nn.Parameter(torch.randn(frames, d) * 0.02)
        self.v2v = nn.ModuleDict({str(i): LookBack(d, heads) for i in v2v})
        self.t2v = nn.ModuleDict({str(i): LookBack(d, heads) for i in t2v})
        if v2v or t2v:
            self.norm = nn.LayerNorm(d)
            self.key, self.value = nn.Linear(d, d, bias=False), nn.Linear(d, d, bias=False)

    def frames(self, x: Float[Tensor, "b n c"]) -> int:
        """How many frames came. Raises `ValueError` for parts of frames, or more than the module knows."""
        count = x.shape[1] // PATCHES
        if x.shape[1] != count * PATCHES or not 1 <= count <= len(self.frame):
            raise ValueError(f"{x.shape[1]} patches came, expected 1 to {len(self.frame)} frames of {PATCHES}")
        return count

    def lead(self, x: Float[Tensor, "b n c"], frames: int) -> Float[Tensor, "b n d"]:
        """Features of patches or of pooled patches in the language model's width, each knowing its frame."""
        tokens = self.mlp(x).unflatten(1, (frames, -1)) + self.frame[:frames, None]
        return tokens.flatten(1, 2)

    def forward(self, x: Float[Tensor, "b n c"], k: int | None = None) -> Float[Tensor, "b k d"]:
        """P, the pooled tokens, before any layer of the language model; by default 16 a frame.

        Raises `ValueError` for another k than the promised ones, and for parts of frames.
        """
        frames = self.frames(x)
        promised = [frames * m for m in self.budgets]
        if k not in (None, *promised):
            raise ValueError(f"k={k} came for {frames} frames, expected one of {promised}")
        return self.lead(pooled(x, frames, (k or promised[0]) // frames), frames)

    def remember(self, x: Float[Tensor, "b n c"]) -> Memory:
        """The keys and values of all patches, each (b, h, n, d / h): computed once a clip, used by every look."""
        v = self.norm(self.lead(x, self.frames(x)))
        keys, values = (part(v).unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in (self.key, self.value))
        return keys, values

    def look(self, i: int, x: Float[Tensor, "b n d"], k: int, memory: Memory) -> Float[Tensor, "b n d"]:
        """What layer i of the language model leaves, the k visual tokens first, after their looks back."""
        parts = [x[:, :k], x[:, k:]]
        for part, looks in enumerate((self.v2v, self.t2v)):
            if str(i) in looks:
                parts[part] = looks[str(i)](parts[part], memory)
        return torch.cat(parts, 1)

    def read(
        self,
        host: VLM,
        x: Float[Tensor, "b n c"],
        words: Int[Tensor, "b t"],
        k: int | None = None,
        *,
        slots: Int[Tensor, " t"] | None = None,
    ) -> Float[Tensor, "b t d"]:
        """What the language model makes of the words after the pooled tokens, looking back at the patches."""
        visual = self(x, k)
        if not (self.v2v or self.t2v):
            return host.read(visual, words, slots=slots)
        after = functools.partial(self.look, k=visual.shape[1], memory=self.remember(x))
        return host.read(visual, words, slots=slots, after_layer=after)
