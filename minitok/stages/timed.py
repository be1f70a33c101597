"""The work that Triton kernels are timed on beside their peers, by `minitok bench --kernels`: what it is, and look-ups.

Each case has its contenders, the right answer, and what it costs at the least: the bytes that must be moved and the
operations of the unit that does them. `timed_reduce` has those of chapter 6.
"""

import contextlib
import functools
import importlib
import importlib.util
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import Tensor


class Case(NamedTuple):
    """One piece of work: who does it, the right answer (or that of its first rows), and what it costs at the least.

    `answers` has a call beside a contender's own where the answer is to be read otherwise than from what it returns.
    """

    work: str
    ours: str
    contenders: dict[str, Callable[[], Tensor]]
    right: Tensor
    moved: int
    operations: int
    unit: torch.dtype
    tf32: bool
    answers: Mapping[str, Callable[[], Tensor]] = MappingProxyType({})


@contextlib.contextmanager
def products(tf32: bool) -> Iterator[None]:
    """Whether matrix products of float32 may use TF32, for as long as it lasts."""
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = tf32
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


def precisely(call: Callable[[], Tensor]) -> Callable[[], Tensor]:
    """The same with products of float32 in float32."""

    def exact() -> Tensor:
        with products(tf32=False):
            return call()

    return exact


def held(call: Callable[[], Tensor]) -> Callable[[], Tensor]:
    """The same in a CUDA graph, which launches all its kernels at once: what the GPU alone takes."""
    call()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = call()

    def replay() -> Tensor:
        graph.replay()
        return found

    return replay


def by_product(z: Tensor, codebook: Tensor) -> Tensor:
    """The best torch expression that we know: one matrix product with the norms added, and an argmin."""
    return torch.addmm(codebook.pow(2).sum(-1)[None], z[0], codebook.T, alpha=-2).argmin(-1)


def package(codebook: Tensor, z: Tensor) -> dict[str, Callable[[], Tensor]]:
    """The look-up of vector-quantize-pytorch, where it is installed: loaded and made when it is first called."""
    if importlib.util.find_spec("vector_quantize_pytorch") is None:
        return {}

    @functools.cache
    def made() -> Any:
        kind = importlib.import_module("vector_quantize_pytorch").VectorQuantize
        quantizer = kind(dim=codebook.shape[1], codebook_size=len(codebook), rotation_trick=False)
        quantizer._codebook.embed.data.copy_(codebook[None])
        return quantizer.to(z.device).eval()

    return {"vector-quantize-pytorch": lambda: made()(z.float())[1]}


def nearest(
    device: torch.device, dtype: torch.dtype, shift: float = 0.0, n: int = 262_144, K: int = 16_384, d: int = 64
) -> Case:
    """The nearest code of n random vectors, all moved by `shift`; float64 finds the right ones of the first 16,384."""
    from minitok.quantize import vq_triton

    z, codebook = ((torch.randn(*size, d, device=device) + shift).to(dtype) for size in ((1, n), (K,)))
    exact = [
        (codebook.double().pow(2).sum(-1) - 2 * part.double() @ codebook.double().T).argmin(-1)
        for part in z[0, :16_384].split(2048)
    ]
    contenders: dict[str, Callable[[], Tensor]] = {
        "ours (Triton)": functools.partial(vq_triton.nearest, z, codebook),
        "addmm, argmin": functools.partial(by_product, z, codebook),
        "addmm, argmin, torch.compile": functools.partial(torch.compile(by_product), z, codebook),
    }
    if dtype == torch.float32:
        contenders["cdist, argmin"] = lambda: torch.cdist(z[0], codebook).argmin(-1)
        contenders |= package(codebook, z)
    moved = (n + K) * d * z.element_size() + 8 * n
    name = str(dtype).removeprefix("torch.")
    where = f", all {shift:g} from zero" if shift else ""
    work = f"nearest of {K:,} codes for {n:,} vectors of width {d}, {name}{where}"
    return Case(work, "ours (Triton)", contenders, torch.cat(exact), moved, 2 * n * K * d, dtype, True)
