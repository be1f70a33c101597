"""SliME: Beyond LLaVA-HD: Diving into High-Resolution Large Multimodal Models (2024), arXiv 2406.08487.

Global view: y = g1 mlp(x) + g2 mlp(resampler(x)) for each patch, g = softmax(x W + e s), s = softplus(x W) + 0.01,
e ~ N(0, 1) in training and 0 afterwards. Crops: 64 learnt queries gather from each, the same mlp follows, and their
tokens stand in the raster order of the whole picture. Router: the score of token i is the sum over the question's words
of their cosines to it (training adds 0.1 N(0, 1)); of softmax(scores / temperature) the largest are kept until their
sum passes p, in reading order. Trained in turns: mlp, resampler, compression of crops, all with the language model.
Differs from the paper: no comma between the views; the language model stays frozen; a picture without crops is its own
crop. The noise takes W again and not a W of its own, and the router gets no gradient: as in the authors' code.
Notebook: notebooks/07_project/06_slime.ipynb.
"""

import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from minitok.project._common import grid_positions, stretched
from minitok.project.llava import LLaVA
from minitok.vlm import VLM

STAGES = ("mlp", "resampler", "local", "all")


class Resampler(nn.Module):
    """A square of learnt queries gathers from a square of n tokens in one layer of attention, no skip around it."""

    own: Tensor
    places: Tensor

    def __init__(self, queries: int, c: int, n: int, heads: int = 3) -> None:
        super().__init__()
        self.query = nn.Parameter(torch.empty(queries, c))
        nn.init.trunc_normal_(self.query, std=0.02)
        self.attention = nn.MultiheadAttention(c, heads, batch_first=True)
        self.norm_query, self.norm, self.norm_out = (nn.LayerNorm(c, eps=1e-6) for _ in range(3))
        own = grid_positions(math.isqrt(queries), c)
        self.register_buffer("own", own, persistent=False)
        self.register_buffer("places", stretched(own, n), persistent=False)

    def forward(self, x: Float[Tensor, "b n c"]) -> Float[Tensor, "b k c"]:
        x, query = self.norm(x), self.norm_query(self.query) + self.own
        return self.norm_out(self.attention(query.expand(len(x), -1, -1), x + self.places, x)[0])


def cosines(
    local: Float[Tensor, "b n d"], text: Float[Tensor, "b t d"], asked: Bool[Tensor, "b t"]
) -> Float[Tensor, "b n"]:
    """The sum of each token's cosines to the words that are asked; filling counts nothing."""
    alike = F.normalize(local, dim=-1) @ F.normalize(text, dim=-1).transpose(1, 2)
    return (alike * asked[:, None]).sum(-1)


def top_p(scores: Float[Tensor, "b n"], p: float, temperature: float = 1.0) -> Bool[Tensor, "b n"]:
    """Which tokens are kept: the likeliest until their probabilities sum to more than p; all for p = 1.

    >>> top_p(torch.tensor([[0.5, 0.125, 0.25, 0.125]]).log(), 0.5)  # 0.5 alone does not pass 0.5
    tensor([[ True, False,  True, False]])

    Of equally likely ones the first is taken. Raises `ValueError` for a p outside 0 to 1.
    """
    if not 0 <= p <= 1:
        raise ValueError(f"p={p} came, expected 0 to 1")
    share, order = (scores.float() / temperature).softmax(-1).sort(dim=-1, descending=True, stable=True)
    before = share.cumsum(-1).roll(1, -1)
    before[:, 0] = -1  # the likeliest is always kept
    return torch.zeros_like(scores, dtype=torch.bool).scatter(1, order, (before <= p) | (p == 1))


class SliME(nn.Module):
    """n tokens of the whole picture, and up to 64 from each crop, chosen by the question: k from n to n + 64 crops.

    x holds the patches of the thumbnail, then those of the crops, n of each. A given k keeps so many tokens in each
    row; without k `forward` keeps all and `read` keeps what passes `p`, another number in each row.
    """

    def __init__(
        self, c: int = 192, d: int = 192, n: int = 256, queries: int = 64, p: float = 0.95, temperature: float = 1.0
    ) -> None:
        super().__init__()
        self.n, self.queries, self.p, self.temperature = n, queries, p, temperature
        self.budgets = (n + queries, n + queries // 4)
        self.mlp, self.gate = LLaVA(c, d), nn.Parameter(torch.zeros(c, 2))
        self.whole, self.local = Resampler(n, c, n), Resampler(queries, c, n)

    def gates(self, x: Float[Tensor, "b n c"]) -> Float[Tensor, "b n 2"]:
        """How much of each adapter each token takes."""
        logits = x @ self.gate
        if self.training:
            logits = logits + torch.randn_like(logits) * (F.softplus(logits) + 1e-2)
        return logits.softmax(-1)

    def view(self, x: Float[Tensor, "b n c"]) -> Float[Tensor, "b n d"]:
        """The tokens of the thumbnail: two adapters, mixed."""
        gates = self.gates(x)
        return gates[..., :1] * self.mlp(x) + gates[..., 1:] * self.mlp(self.whole(x))

    def crops(self, x: Float[Tensor, "b n c"]) -> Float[Tensor, "b k d"]:
        """The compressed tokens of all crops, in the raster order of the whole picture.

        Raises `ValueError` for a number of crops that makes no square.
        """
        count, few = x.shape[1] // self.n, math.isqrt(self.queries)
        side = math.isqrt(count)
        if side**2 * self.n != x.shape[1]:
            raise ValueError(f"{x.shape[1]} features came for crops of {self.n}, expected a square of crops")
        tokens = self.mlp(self.local(x.reshape(-1, self.n, x.shape[-1])))
        return tokens.unflatten(1, (few, few)).unflatten(0, (-1, side, side)).transpose(2, 3).flatten(1, 4)

    def score(
        self, local: Float[Tensor, "b n d"], text: Float[Tensor, "b t d"], asked: Bool[Tensor, "b t"]
    ) -> Float[Tensor, "b n"]:
        """The router's scores, with noise in training."""
        scores = cosines(local, text, asked)
        return scores + 0.1 * torch.randn_like(scores) if self.training else scores

    def both(self, x: Float[Tensor, "b n c"]) -> tuple[Float[Tensor, "b v d"], Float[Tensor, "b m d"]]:
        """The tokens of the thumbnail, and all tokens of the crops."""
        return self.view(x[:, : self.n]), self.crops(x[:, self.n :] if x.shape[1] > self.n else x)

    def choose(
        self, local: Float[Tensor, "b n d"], scores: Float[Tensor, "b n"], few: int
    ) -> Float[Tensor, "b {few} d"]:
        """The tokens of the highest scores, in reading order."""
        kept = scores.argsort(dim=1, descending=True, stable=True)[:, :few].sort(1).values
        return local.gather(1, kept[..., None].expand(-1, -1, local.shape[-1]))

    def forward(
        self,
        x: Float[Tensor, "b n c"],
        k: int | None = None,
        *,
        text: Float[Tensor, "b t d"],
        asked: Bool[Tensor, "b t"],
    ) -> Float[Tensor, "b k d"]:
        """Raises `ValueError` for a k that the views do not give."""
        view, local = self.both(x)
        few = local.shape[1] if k is None else k - self.n
        if not 0 <= few <= local.shape[1]:
            raise ValueError(f"k={k} came, expected {self.n} to {self.n + local.shape[1]} tokens")
        return torch.cat([view, self.choose(local, self.score(local, text, asked), few)], 1)

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
        """What the host makes of the words, each row with as many tokens as its own question needs where k is None."""
        if k is not None:
            return host.read(self(x, k, text=text, asked=asked), words, slots=slots)
        view, local = self.both(x)
        kept = top_p(self.score(local, text, asked), self.p, self.temperature)
        rows = zip(view, local, kept, words, strict=True)
        return torch.cat([host.read(torch.cat([a, b[c]])[None], w[None], slots=slots) for a, b, c, w in rows])

    def alone(self, x: Float[Tensor, "b n c"], stage: str) -> Float[Tensor, "b k d"]:
        """What the language model is given while a part is trained alone: one adapter's view, or the crops."""
        view = x[:, : self.n]
        return self.both(x)[1] if stage == "local" else self.mlp(view if stage == "mlp" else self.whole(view))


def learns(slime: SliME, stage: str) -> Iterator[nn.Parameter]:
    """What a stage trains: the MLP, then the resampler of the view, then that of the crops, at last everything.

    Raises `ValueError` for another stage.
    """
    if stage not in STAGES:
        raise ValueError(f"stage={stage!r} came, expected one of {', '.join(STAGES)}")
    parts = {"mlp": slime.mlp, "resampler": slime.whole, "local": slime.local, "all": slime}
    yield from parts[stage].parameters()
