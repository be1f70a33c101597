"""What all generators share: the schedule of a picture's positions, the loop that draws by it, the checks of input."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Int
from torch import Tensor

from minitok.checks import readable
from minitok.nn import Cache


@dataclass(frozen=True)
class Schedule:
    """The positions 0 to n - 1 of a picture in groups: a group is drawn at once, one group after another.

    >>> len(Schedule(((0,), (1, 2), (3,))))
    3

    Raises `ValueError` unless the groups hold each position once and none is empty.
    """

    groups: tuple[tuple[int, ...], ...]

    def __post_init__(self) -> None:
        if not all(self.groups):
            raise ValueError(f"groups: number {[len(g) for g in self.groups].index(0)} is empty, expected positions")
        if sorted(self.order) != list(range(self.n)):
            raise ValueError(f"groups of {self.n} positions came, expected each of 0 to {self.n - 1} once")

    def __len__(self) -> int:
        """The number of groups, which is that of the model's calls for a picture."""
        return len(self.groups)

    @property
    def n(self) -> int:
        """The number of positions."""
        return sum(map(len, self.groups))

    @property
    def order(self) -> list[int]:
        """The positions in the order in which they are drawn."""
        return [position for group in self.groups for position in group]


@runtime_checkable
class Generator(Protocol):
    """What the loop asks of a model; label number `classes` stands for "any class"."""

    schedule: Schedule
    classes: int

    def step(self, new: Tensor, labels: Tensor, cache: Cache) -> Tensor:
        """Logits (b, g, K) of the next group, given the codes of the group just drawn: none (b, 0) at first."""
        ...


class Drawn(NamedTuple):
    """What `generate` returns: the codes in the order of the positions, and how often the model was called."""

    codes: Int[Tensor, "b n"]
    calls: int


@torch.no_grad()
def generate(
    model: Generator,
    labels: Int[Tensor, "b"],
    *,
    guidance: float = 1.0,
    temperature: float = 1.0,
    seed: int = 0,
    watch: Callable[[Tensor], None] | None = None,
) -> Drawn:
    """Draws a picture's codes for each label, group after group by the model's schedule.

    Codes of a group are drawn independently, each from its own logits. `guidance` g moves the logits from those of any
    class to those of the class asked for, `u + g (c - u)`; 1 is none, and any other doubles the batch of each call
    (classifier-free guidance, arXiv 2207.12598). `watch` is given after each call the codes so far, (b, t) in the
    order of `schedule.order`. A logit of -inf rules a code out. The loop draws from a generator of its own, which
    `torch.compile` cannot make: compile the model. Raises `ValueError` for labels that are not whole numbers (b) in
    0..classes - 1, for a temperature that is not finite and above 0, for a guidance that is not finite, and for logits
    that leave no probabilities (NaN, infinity, all of a code's -inf).
    """
    check_whole("labels", labels, "(b)", model.classes)
    if not 0 < temperature < math.inf:
        raise ValueError(f"temperature={temperature} came, expected a finite number above 0")
    if not math.isfinite(guidance):
        raise ValueError(f"guidance={guidance} came, expected a finite number")
    generator = torch.Generator(labels.device).manual_seed(seed)
    asked = labels if guidance == 1 else torch.cat([labels, torch.full_like(labels, model.classes)])
    new, cache, calls = labels.new_zeros(len(labels), 0), Cache(), 0
    parts: list[Tensor] = []
    for t, group in enumerate(model.schedule.groups):
        logits = model.step(new if guidance == 1 else new.repeat(2, 1), asked, cache).float()
        calls += 1
        if guidance != 1:
            conditional, free = logits.chunk(2)
            logits = free + guidance * (conditional - free)
        p = ((logits - logits.amax(-1, keepdim=True)) / temperature).softmax(-1).flatten(0, 1)
        if not p.isfinite().all():
            raise ValueError(f"logits of group {t} came with NaN, infinity or all -inf, expected finite ones")
        new = torch.multinomial(p, 1, generator=generator).view(len(labels), len(group))
        parts.append(new)
        if watch is not None:
            watch(torch.cat(parts, dim=1))
    place = torch.tensor(model.schedule.order, device=labels.device).argsort()
    return Drawn(torch.cat(parts, dim=1)[:, place], calls)


def check_whole(name: str, x: Tensor, shape: str, size: int) -> None:
    """Raises `ValueError` unless x has the axes that `shape` names and holds whole numbers in 0..size - 1."""
    if x.dim() != shape.count(",") + 1:
        raise ValueError(f"{name} of shape {tuple(x.shape)} came, expected {shape}")
    if x.is_floating_point() or x.dtype == torch.bool:
        raise ValueError(f"{name} of type {x.dtype} came, expected whole numbers")
    # A compiled model is one that trains: there the check would wait for the GPU in each step.
    if readable(x) and x.numel() and not (int(x.min()) >= 0 and int(x.max()) < size):
        raise ValueError(f"{name} from {int(x.min())} to {int(x.max())} came, expected 0 to {size - 1}")


def check_codes(codes: Tensor, labels: Tensor, K: int, classes: int, counts: range) -> None:
    """Raises `ValueError` unless codes are (b, n), n in `counts`, of 0..K - 1, and labels (b) of 0..classes."""
    check_whole("codes", codes, "(b, n)", K)
    check_whole("labels", labels, "(b)", classes + 1)
    if codes.shape[1] not in counts:
        some = f"{counts[0]} to {counts[-1]}" if len(counts) > 1 else str(counts[0])
        raise ValueError(f"codes: {codes.shape[1]} a picture came, expected {some}")
    if len(codes) != len(labels):
        raise ValueError(f"labels for {len(labels)} pictures came, and codes for {len(codes)}")
