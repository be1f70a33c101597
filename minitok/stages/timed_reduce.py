"""The work that chapter 6's kernels are timed on beside their peers: a choice by distances, and one step of ToMe."""

from collections.abc import Callable

import torch
from torch import Tensor

from minitok.reduce.divprune import distances, divprune
from minitok.reduce.divprune import max_min as max_min_loop
from minitok.reduce.tome import match, tome
from minitok.stages.timed import Case, held, precisely


def choice(device: torch.device, n: int = 2880, k: int = 288, c: int = 1024) -> Case:
    """The choice of k among n random tokens; right is what the loop of torch calls chooses."""
    from minitok.reduce import divprune_triton

    x = torch.randn(1, n, c, device=device)

    def loop() -> Tensor:
        return divprune(x, k).order[0]

    contenders: dict[str, Callable[[], Tensor]] = {
        "ours (Triton)": lambda: divprune_triton.divprune(x, k).order[0],
        "loop of torch calls": loop,
        "loop of torch calls, torch.compile": torch.compile(loop),
    }
    work = f"max-min choice of {k} among {n:,} tokens of width {c}, float32"
    return Case(work, "ours (Triton)", contenders, loop(), 4 * n * c + 8 * k, 2 * n * n * c, torch.float32, False)


def max_min(device: torch.device, n: int = 2880, k: int = 288, c: int = 1024) -> Case:
    """The same from distances; the least that it costs is to read each distance once, for the first pick."""
    from minitok.reduce import divprune_triton

    given = distances(torch.randn(1, n, c, device=device))

    def loop() -> Tensor:
        return max_min_loop(given, k)[0]

    contenders: dict[str, Callable[[], Tensor]] = {
        "ours (Triton)": lambda: divprune_triton.max_min(given, k)[0],
        "loop of torch calls": loop,
        "loop of torch calls, torch.compile": torch.compile(loop),
    }
    work = f"max-min choice of {k} among {n:,} tokens, distances given"
    return Case(work, "ours (Triton)", contenders, loop(), 4 * n * n + 8 * k, 0, torch.float32, False)


def published(x: Tensor, r: int) -> tuple[Tensor, Tensor, Tensor]:
    """ToMe as its authors' library does it, told anew: the tokens, the places of A that are merged, and those in B.

    It compares in the type of the tokens, adds tokens and their sizes up by `scatter_reduce`, and lists the tokens of A
    that are left, the nearest first, then B's.
    """
    unit, size = x / x.norm(dim=-1, keepdim=True), torch.ones_like(x[..., :1])
    nearest, partner = (unit[:, ::2] @ unit[:, 1::2].mT).max(-1)
    order = nearest.argsort(dim=-1, descending=True)[..., None]
    left, merged = order[:, r:], order[:, :r]
    into = partner[..., None].gather(1, merged)

    def summed(values: Tensor) -> Tensor:
        even, odd = values[:, ::2], values[:, 1::2]
        moved = even.gather(1, merged.expand(-1, -1, values.shape[2]))
        joined = odd.scatter_reduce(1, into.expand(-1, -1, values.shape[2]), moved, reduce="sum")
        return torch.cat([even.gather(1, left.expand(-1, -1, values.shape[2])), joined], dim=1)

    return summed(x * size) / summed(size), merged[..., 0], into[..., 0]


def edges(assignment: Tensor, k: int) -> Tensor:
    """For each token of an even place, which of the odd ones it was merged with, -1: with none.

    >>> edges(torch.tensor([[0, 1, 2, 2, 1]]), k=3)
    tensor([[-1,  1,  0]])
    """
    b, n = assignment.shape
    places = torch.arange(n // 2, device=assignment.device).expand(b, -1)
    partner = assignment.new_full((b, k), -1).scatter(1, assignment[:, 1::2], places)
    return partner.gather(1, assignment[:, ::2])


def merging(device: torch.device, dtype: torch.dtype, b: int = 64, n: int = 1024, c: int = 768, r: int = 256) -> Case:
    """One step of ToMe on random tokens; right are the edges that float64 finds. The least: tokens read and written."""
    from minitok.reduce import tome_triton

    x, k = torch.randn(b, n, c, device=device).to(dtype), n - r

    def reference() -> Tensor:
        return tome(x, k).apply(x)

    def by_authors() -> Tensor:
        return published(x, r)[0]

    def places() -> Tensor:
        _, merged, into = published(x, r)
        return into.new_full((b, (n + 1) // 2), -1).scatter(1, merged, into)

    made = {
        "ours (Triton)": lambda: tome_triton.tome(x, k).apply(x),
        "the reference": reference,
        "the reference, torch.compile": torch.compile(reference),
        "ToMe as published": by_authors,
        "ToMe as published, torch.compile": torch.compile(by_authors),
    }
    contenders = {who: precisely(call) for who, call in made.items()}
    if device.type == "cuda":
        for who in ("ours (Triton)", "ToMe as published"):
            contenders[f"{who}, in a CUDA graph"] = held(contenders[who])

    def read(who: str) -> Callable[[], Tensor]:
        if "published" in who:
            return places
        step = tome_triton.match if "ours" in who else match
        return lambda: edges(step(x, r), k)

    answers = {who: precisely(read(who)) for who in contenders}
    right = edges(match(x.double(), r), k).flatten()
    moved, operations = x.element_size() * b * c * (n + k), 2 * b * (n // 2) * ((n + 1) // 2) * c
    work = f"ToMe, {b} x {n:,} tokens of width {c}, {r} merged, {str(dtype).removeprefix('torch.')}"
    return Case(work, "ours (Triton)", contenders, right, moved, operations, dtype, True, answers)
