"""ToP-ViM: tokens are pruned inside a network of state spaces, and each scan goes on along the places they had.

Zhan, Kong, Gong, Wu, Meng, Zheng, Shen, Ioannidis, Niu, Zhao, Wang: Exploring Token Pruning in Vision State Space
Models, 2024, arXiv 2409.18962.

Mechanism: a scan has a state, `h_t = A_t h_(t-1) + B_t x_t` and `y_t = C_t h_t`, with `A_t = exp(d_t a)`; several scans
run over the grid, by rows and by columns, forward and backward. The importance of token m is the sum over channels of
`max(0, y_m)`. After some layers the k most important stay, in their order. A position that was pruned is not cut out of
a scan's path: it takes over the state of the last kept one before it, by a map of positions for each direction.
Differs from the paper: whether a state that is taken over decays on its way is not established, so both are here,
`align="decay"` (once for each pruned position, by the step of the kept one) and `"hold"`; `"naive"` is what they are
compared with. One a for each head (as in Mamba-2), so that a scan is a product with a triangular matrix; no short
convolution before it; the class from the mean of tokens, without CLS (as PlainMamba, not as Vim). The released code
prunes by the sum, not clipped, of the backward scan alone, in reversed order, and holds no alignment.
Notebook: notebooks/06_reduce/10_top_vim.ipynb
"""

import math
from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from minitok.nn import RMSNorm
from minitok.reduce._common import Kept, Reduction, check_signal, check_tokens, highest, precise

DIRECTIONS = ("rows", "rows back", "columns", "columns back")
ALIGN = ("decay", "hold", "naive")


def importance(outputs: Float[Tensor, "b n d"]) -> Float[Tensor, "b n"]:
    """The sum over channels of what is above 0.

    >>> importance(torch.tensor([[[1.0, -5.0], [0.25, 0.5]]])).tolist()
    [[1.0, 0.75]]
    """
    return precise(outputs).clamp(min=0).sum(-1)


def top_vim(x: Float[Tensor, "b n c"], k: int, *, outputs: Float[Tensor, "b n d"] | None = None) -> Kept:
    """Keeps the k most important tokens, ascending; of equal ones the lower index counts.

    >>> top_vim(torch.zeros(1, 3, 1), 2, outputs=torch.tensor([[[3.0, -9.0], [1.0, 1.0], [-1.0, 1.5]]])).order.tolist()
    [[0, 1]]

    `outputs` are those of the layer's scans at the tokens' places (default: x). Raises `ValueError` for tokens or
    outputs that are not finite or do not fit one another, and for a k outside 1 to n.
    """
    check_tokens(x, k)
    outputs = x if outputs is None else outputs
    check_signal("outputs", outputs, (*x.shape[:2], None))
    return Reduction.keep(highest(importance(outputs), k), x.shape[1])


def path(
    places: Int[Tensor, "b k"], side: int, direction: str, align: str = "decay"
) -> tuple[Int[Tensor, "b k"], Int[Tensor, "b k"]]:
    """In which order a scan meets kept tokens of a square grid, and how many steps each is from the one before it.

    >>> [part.tolist() for part in path(torch.tensor([[0, 1, 2, 6]]), side=3, direction="columns")]
    [[[0, 3, 1, 2]], [[1, 2, 1, 3]]]

    The first token is one step from the start. `hold` has the same order with all steps 1, so that nothing happens at
    pruned positions; `naive` lays the tokens row by row into a new square, as if none was missing.
    Raises `ValueError` for another direction or alignment.
    """
    if direction not in DIRECTIONS or align not in ALIGN:
        raise ValueError(f"direction={direction!r} and align={align!r} came, expected of {DIRECTIONS} and of {ALIGN}")
    if align == "naive":
        side = math.isqrt(places.shape[1] - 1) + 1
        places = torch.arange(places.shape[1], device=places.device).expand_as(places)
    at = places % side * side + places // side if direction.startswith("columns") else places
    at = side * side - 1 - at if direction.endswith("back") else at
    met, order = at.sort(-1)
    steps = met.diff(dim=-1, prepend=met[:, :1] - 1)
    return order, steps if align == "decay" else torch.ones_like(steps)


def scan(
    x: Float[Tensor, "b n h d"],
    step: Float[Tensor, "b n h"],
    a: Float[Tensor, "h"],
    write: Float[Tensor, "b n s"],
    read: Float[Tensor, "b n s"],
    steps: Int[Tensor, "b n"],
) -> Float[Tensor, "b n h d"]:
    """`y_t = C_t h_t` of a state that decays by `exp(step_t a)` on the way to t and takes in `step_t B_t x_t`.

    A token that is so many steps from the one before it finds the state decayed by that one's `exp(step a)` for each
    position between them. `write` is B, `read` is C; a is below 0.
    """
    fade = precise(step) * a  # b n h
    before = F.pad(fade, (0, 0, 1, -1))
    total = (fade + (steps - 1)[..., None] * before).cumsum(1).transpose(1, 2)  # b h n
    later = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool, device=x.device).triu(1)
    left = (total[..., None] - total[..., None, :]).masked_fill(later, -torch.inf).exp()
    weights = (read @ write.mT)[:, None] * left.to(read.dtype)  # b h n n
    return (weights @ (step[..., None] * x).transpose(1, 2).to(weights.dtype)).transpose(1, 2)


class ScanLayer(nn.Module):
    """Scans of four directions over tokens of a square grid, gated, added to the tokens."""

    def __init__(self, width: int, heads: int = 4, state: int = 8) -> None:
        super().__init__()
        self.heads, self.state, inner = heads, state, 2 * width
        self.norm, self.enter, self.out = RMSNorm(width), nn.Linear(width, 2 * inner), nn.Linear(inner, width)
        self.signals = nn.ModuleList(nn.Linear(inner, 2 * state + heads, bias=False) for _ in DIRECTIONS)
        self.rate = nn.Parameter(torch.rand(len(DIRECTIONS), heads).mul(math.log(16)))
        start = torch.empty(len(DIRECTIONS), heads).uniform_(math.log(1e-3), math.log(0.1)).exp()
        self.bias = nn.Parameter(start.expm1().log())  # what softplus makes these steps of
        self.skip = nn.Parameter(torch.ones(2 * width))

    def forward(
        self, x: Float[Tensor, "b k c"], places: Int[Tensor, "b k"], side: int, align: str = "decay"
    ) -> tuple[Float[Tensor, "b k c"], Float[Tensor, "b k d"]]:
        """The tokens, and what the scans gave at each, whose importance says what is pruned."""
        inner, gate = self.enter(self.norm(x)).chunk(2, -1)
        rows, y = torch.arange(len(x), device=x.device)[:, None], self.skip * inner
        for i, direction in enumerate(DIRECTIONS):
            order, steps = path(places, side, direction, align)
            met = inner[rows, order]
            write, read, step = self.signals[i](met).split([self.state, self.state, self.heads], -1)
            step = F.softplus(precise(step) + self.bias[i])
            found = scan(met.unflatten(-1, (self.heads, -1)), step, -self.rate[i].exp(), write, read, steps)
            y = y + found.flatten(2)[rows, order.argsort(-1)]
        y = y * F.silu(gate)
        return x + self.out(y), y


class VisionScan(nn.Module):
    """A classifier of pictures by scans alone: a convolutional stem, learnt positions, layers, the mean of tokens."""

    def __init__(self, width: int = 88, layers: int = 6, heads: int = 4, size: int = 64, classes: int = 10) -> None:
        super().__init__()
        self.side, c = size // 4, width
        self.stem = nn.Sequential(
            nn.Conv2d(3, c // 4, 3, 2, 1), nn.GELU(), nn.Conv2d(c // 4, c // 2, 3, 2, 1), nn.GELU(),
            nn.Conv2d(c // 2, c, 3, 1, 1),
        )  # fmt: skip
        self.position = nn.Parameter(torch.randn(1, self.side**2, c) * 0.02)
        self.layers = nn.ModuleList(ScanLayer(c, heads) for _ in range(layers))
        self.norm, self.head = RMSNorm(c), nn.Linear(c, classes)

    def forward(
        self,
        images: Float[Tensor, "b 3 H W"],
        schedule: Mapping[int, int] | None = None,
        align: str = "decay",
        choose: Callable[..., Reduction] = top_vim,
    ) -> Float[Tensor, "b classes"]:
        """Class logits, with `schedule[i]` tokens left after layer i, chosen as `choose(x, k, outputs=)` says."""
        x = self.stem(images * 2 - 1).flatten(2).mT + self.position
        places = torch.arange(x.shape[1], device=x.device).expand(len(x), -1)
        for i, layer in enumerate(self.layers):
            x, outputs = layer(x, places, self.side, align)
            if schedule and i in schedule:
                made = choose(x, schedule[i], outputs=outputs)
                x, places = made.apply(x), places.gather(1, made.order)
        return self.head(self.norm(x).mean(1))


def keep_share(n: int, share: float, after: tuple[int, ...]) -> dict[int, int]:
    """A schedule that keeps this share, rounded up, of what is left, after each of some layers.

    >>> keep_share(256, 0.65, (1, 2, 3))
    {1: 167, 2: 109, 3: 71}
    """
    schedule = {}
    for layer in after:
        n = schedule[layer] = math.ceil(n * share)
    return schedule
