"""HoT, the Hourglass Tokenizer: a video's frames are pruned early in a network and all are recovered at its end.

Li, Liu, Liu, Wang, Cai, Sebe: Hourglass Tokenizer for Efficient Transformer-Based 3D Human Pose Estimation, 2023,
arXiv 2311.12028.

Mechanism: a frame x_t is the mean of its joints' tokens. `spread_t` is the mean of its squared distances, divided by
the channels, to the nearest frames, itself counted; its density is `exp(-spread_t)`. `delta_t` is the distance to the
nearest denser frame; of the densest, the largest of all distances. The k frames with the highest `density x delta`
stay, in the order of time, as they are, and get a learnt embedding of their new places. The blocks that follow read
these alone. At the end a learnt query for each of the t frames looks at them, joint by joint: `y = q + Attn(q; z, z)`.
Differs from the paper: no noise of 1e-6 on the densities; of equally dense frames the earlier counts as denser. With
two nearest (itself and one), two frames that are nearest to one another are always equally dense. Scores are compared
as logarithms, in which no density falls to 0. The house's blocks (RMSNorm, gated feed-forward), and one shared norm of
spatial and temporal blocks less.
Notebook: notebooks/06_reduce/09_hot.ipynb
"""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from minitok.nn import Block, Shape
from minitok.reduce._common import Kept, Reduction, check_tokens, highest, precise

# How much the authors' loss counts each joint, in the order of `minitok.data.poses.JOINTS`: limbs count most.
JOINT_WEIGHTS = (1, 1, 2.5, 2.5, 1, 2.5, 2.5, 1, 1, 1, 1.5, 1.5, 4, 4, 1.5, 4, 4)


def hot(x: Float[Tensor, "b n c"], k: int, *, nearest: int = 2) -> Kept:
    """Keeps k frames that are dense and far from denser ones, ascending; x holds one token a frame.

    >>> hot(torch.tensor([[[0.0], [0.2], [2.0], [2.1]]]), 2).order.tolist()
    [[0, 2]]

    The tokens of a frame's joints are averaged before (`Hourglass.frames`). No gradient passes through the choice.
    Source: section 3.2. Raises `ValueError` for tokens that are not finite (b, n, c), a k outside 1 to n, and a
    `nearest` below 1; it counts the frame itself, and of fewer frames takes all.
    """
    check_tokens(x, k)
    if nearest < 1:
        raise ValueError(f"nearest={nearest} came, expected at least 1")
    n, wide = x.shape[1], precise(x).detach()
    # Not by products of x: these would make two frames' distance depend on which of them comes first.
    apart = torch.cdist(wide, wide, compute_mode="donot_use_mm_for_euclid_dist") / x.shape[2] ** 0.5
    spread = apart.topk(min(nearest, n), dim=-1, largest=False).values.square().mean(-1)
    rank = spread.argsort(dim=-1, stable=True).argsort(-1)
    denser = rank[:, None, :] < rank[:, :, None]
    delta = apart.where(denser, apart.amax((1, 2), keepdim=True)).amin(-1)
    scores = delta.clamp(min=torch.finfo(delta.dtype).tiny).log() - spread
    return Reduction.keep(highest(scores, k), n)


class Recovery(nn.Module):
    """All frames from the refined ones: learnt queries, zero at first, and what they find by attention."""

    def __init__(self, width: int, heads: int, frames: int) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.zeros(1, frames, width))
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)

    def forward(self, z: Float[Tensor, "b k c"]) -> Float[Tensor, "b t c"]:
        """`q + Attn(q; z, z)`. Source: section 3.3."""
        q = self.queries.expand(len(z), -1, -1)
        return q + self.attention(q, z, z, need_weights=False)[0]


class Hourglass(nn.Module):
    """Lifts poses in a picture to poses in space: pairs of blocks over joints and over time, with fewer frames inside.

    `shape.layers` counts pairs. After the first `early` pairs `choose` (by default `hot`) leaves k of the frames;
    with `k=None` there is no hourglass, and all pairs read all frames.
    """

    def __init__(
        self,
        shape: Shape,
        frames: int = 81,
        k: int | None = 27,
        early: int = 1,
        *,
        joints: int = 17,
        choose: Callable[[Tensor, int], Reduction] = hot,
    ) -> None:
        super().__init__()
        if not 1 <= early <= shape.layers or not 1 <= (1 if k is None else k) <= frames:
            limits = f"expected 1 to the {shape.layers} pairs and 1 to the {frames} frames"
            raise ValueError(f"early={early} and k={k} came, {limits}")
        c, self.k, self.early, self.choose = shape.width, k, early, choose
        self.embed, self.joint = nn.Linear(2, c), nn.Parameter(torch.randn(1, joints, c) * 0.02)
        self.time = nn.Parameter(torch.randn(1, frames, c) * 0.02)
        self.spatial = nn.ModuleList(Block(shape) for _ in range(shape.layers))
        self.temporal = nn.ModuleList(Block(shape) for _ in range(shape.layers))
        self.slot = nn.Parameter(torch.zeros(1, k, c)) if k else None
        self.recovery = Recovery(c, shape.heads, frames) if k else None
        self.norm, self.head = nn.LayerNorm(c), nn.Linear(c, 3)

    def pair(self, i: int, x: Float[Tensor, "b t j c"], places: Tensor | None = None) -> Float[Tensor, "b t j c"]:
        """Pair i: each frame's joints see one another, then each joint sees itself in all frames."""
        b, t, j, _ = x.shape
        x = self.spatial[i](x.flatten(0, 1), x.new_zeros(1, j)).unflatten(0, (b, t))
        rows = x.transpose(1, 2).flatten(0, 1)
        rows = rows if places is None else rows + places
        return self.temporal[i](rows, x.new_zeros(1, t)).unflatten(0, (b, j)).transpose(1, 2)

    def frames(self, images: Float[Tensor, "b t j 2"]) -> Float[Tensor, "b t j c"]:
        """The tokens of all frames after the early pairs; their mean over joints is what `choose` looks at."""
        x = self.pair(0, self.embed(images) + self.joint, self.time)
        for i in range(1, self.early):
            x = self.pair(i, x)
        return x

    def kept(self, images: Float[Tensor, "b t j 2"]) -> Int[Tensor, "b k"]:
        """Which frames go on."""
        return self.choose(self.frames(images).mean(2), self.k or images.shape[1]).order

    def recover(self, z: Float[Tensor, "b k j c"], made: Reduction) -> Float[Tensor, "b t j c"]:
        """All frames, from those that went through the later pairs."""
        rows = z.transpose(1, 2).flatten(0, 1)
        return (self.recovery(rows) if self.recovery else rows).unflatten(0, (len(z), -1)).transpose(1, 2)

    def forward(self, images: Float[Tensor, "b t j 2"]) -> Float[Tensor, "b t j 3"]:
        """Metres from the pelvis of every joint in every frame."""
        x, made = self.frames(images), None
        if self.k and self.slot is not None:
            made = self.choose(x.mean(2), self.k)
            x = made.apply(x.flatten(2)).unflatten(2, x.shape[2:]) + self.slot[:, :, None]
        for i in range(self.early, len(self.spatial)):
            x = self.pair(i, x)
        return self.head(self.norm(x if made is None else self.recover(x, made)))


def mpjpe(found: Float[Tensor, "b t j 3"], true: Float[Tensor, "b t j 3"]) -> Float[Tensor, ""]:
    """The mean error of a joint's place: a distance, in the unit of what came."""
    return (found - true).norm(dim=-1).mean()


def lifting_loss(
    found: Float[Tensor, "b t j 3"], true: Float[Tensor, "b t j 3"], weights: tuple[float, ...] = JOINT_WEIGHTS
) -> Float[Tensor, ""]:
    """Weighed errors of places, half the weighed mean square of what is found to move, and twice the errors of motion.

    Source: the authors' code, `0.5` and `2.0` in its training step.
    """
    w = found.new_tensor(weights)
    steps = found.diff(dim=1)
    places, smooth = (w * (found - true).norm(dim=-1)).mean(), (w[:, None] * steps.square()).mean()
    return places + 0.5 * smooth + 2 * mpjpe(steps, true.diff(dim=1))
