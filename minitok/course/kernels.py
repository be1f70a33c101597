"""How fast the Triton kernels are beside their peers and the floor: `minitok bench --kernels`, on a GPU.

The floor is the time that no version can beat: the larger of the bytes that must be moved over the bandwidth and the
operations over the rate of the unit that does them. Both ceilings are measured in the same run, by a large copy and a
large matrix product.
"""

import contextlib
import functools
import importlib
import importlib.util
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from minitok.devices import median_seconds
from minitok.reduce.divprune import distances
from minitok.reduce.divprune import max_min as max_min_loop
from minitok.tables import aligned


class Case(NamedTuple):
    """One piece of work: who does it, the right answer (or that of its first rows), and what it costs at the least."""

    work: str
    ours: str
    contenders: dict[str, Callable[[], Tensor]]
    right: Tensor
    moved: int
    operations: int
    unit: torch.dtype
    tf32: bool


@contextlib.contextmanager
def products(tf32: bool) -> Iterator[None]:
    """Whether matrix products of float32 may use TF32, for as long as it lasts."""
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = tf32
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


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


def max_min(device: torch.device, whole: bool, n: int = 2880, k: int = 288, c: int = 1024) -> Case:
    """The choice of k among n random tokens, `whole` with the distances; right is what the loop of torch calls chooses.

    The least that the choice alone costs is to read each distance once, for the first pick.
    """
    from minitok.reduce import divprune_triton

    x = torch.randn(1, n, c, device=device)
    given = distances(x)

    def distance() -> Tensor:
        return distances(x) if whole else given

    def loop() -> Tensor:
        return max_min_loop(distance(), k)[0]

    contenders: dict[str, Callable[[], Tensor]] = {
        "ours (Triton)": lambda: divprune_triton.max_min(distance(), k)[0],
        "loop of torch calls": loop,
        "loop of torch calls, torch.compile": torch.compile(loop),
    }
    work = f"max-min choice of {k} among {n:,} tokens" + (f" of width {c}, float32" if whole else ", distances given")
    moved, operations = 4 * ((n * c if whole else n * n) + k), 2 * n * n * c if whole else 0
    return Case(work, "ours (Triton)", contenders, loop(), moved, operations, torch.float32, False)


CASES: dict[str, Callable[[torch.device], Case]] = {
    "nearest": functools.partial(nearest, dtype=torch.float32),
    "nearest, far from zero": functools.partial(nearest, dtype=torch.float32, shift=100.0),
    "nearest, bfloat16": functools.partial(nearest, dtype=torch.bfloat16),
    "nearest, bfloat16, far from zero": functools.partial(nearest, dtype=torch.bfloat16, shift=100.0),
    "max_min": functools.partial(max_min, whole=True),
    "max_min, distances given": functools.partial(max_min, whole=False),
}


def ceilings(device: torch.device, dtype: torch.dtype, tf32: bool) -> tuple[float, float]:
    """Bytes a second of a large copy (read and written), and operations a second of a large matrix product."""
    a, b = torch.randn(2, 8192, 8192, device=device).to(dtype)
    seconds = median_seconds(lambda: a.copy_(b), device, 0.3)
    with products(tf32):
        return 2 * a.numel() * a.element_size() / seconds, 2 * 8192**3 / median_seconds(lambda: a @ b, device, 0.3)


def run(name: str, device: torch.device) -> dict[str, Any]:
    """All contenders of one case: milliseconds, how often the answer is the right one, and the floor.

    A contender that fails here (a package that does not load, a call that needs more memory than there is) is told as
    absent, and the others are timed all the same; what ours raises is raised.
    """
    case = CASES[name](device)
    bandwidth, rate = ceilings(device, case.unit, case.tf32)
    rows = []
    with products(case.tf32):
        for who, call in case.contenders.items():
            try:
                found = call().flatten()[: len(case.right)]
                milliseconds = round(1000 * median_seconds(call, device, 1.0), 3)
            except Exception as error:
                if who == case.ours:
                    raise
                rows.append({"who": who, "absent": (str(error).strip() or type(error).__name__).splitlines()[0]})
                continue
            agreement = round((found == case.right).double().mean().item(), 6)
            rows.append({"who": who, "milliseconds": milliseconds, "agreement": agreement})
    floor = 1000 * max(case.moved / bandwidth, case.operations / rate)
    return {"work": case.work, "floor in milliseconds": round(floor, 3), "ours": case.ours, "rows": rows}


@torch.no_grad()
def measure() -> dict[str, Any]:
    """Every case on the GPU of this machine. Raises `ValueError` where there is none."""
    if not torch.cuda.is_available():
        raise ValueError("the kernels are timed on a GPU, and there is none here")
    triton, device = importlib.import_module("triton"), torch.device("cuda")
    torch.manual_seed(0)
    facts = {"device": torch.cuda.get_device_name(), "torch": torch.__version__, "triton": triton.__version__}
    if importlib.util.find_spec("vector_quantize_pytorch"):
        from importlib.metadata import PackageNotFoundError, version

        facts["vector-quantize-pytorch"] = "of no known version"
        with contextlib.suppress(PackageNotFoundError):  # a folder on the path, which pip knows nothing of
            facts["vector-quantize-pytorch"] = version("vector-quantize-pytorch")
    return {**facts, "cases": [run(name, device) for name in CASES]}


def table(figures: dict[str, Any]) -> str:
    """What `measure` found: for each case the times, their ratio to ours, and the share of right answers."""
    parts = [", ".join(f"{k} {v}" if k != "device" else v for k, v in figures.items() if k != "cases")]
    for case in figures["cases"]:
        ours = next(row["milliseconds"] for row in case["rows"] if row["who"] == case["ours"])
        lines = [("", "ms", "times ours", "right")]
        for row in case["rows"]:
            if "absent" in row:
                lines.append((row["who"], f"absent: {row['absent']}", "", ""))
                continue
            ratio = f"{row['milliseconds'] / ours:.1f}"
            lines.append((row["who"], f"{row['milliseconds']:.2f}", ratio, f"{row['agreement']:.2%}"))
        floor = case["floor in milliseconds"]
        lines.append(("floor", f"{floor:.2f}", f"{floor / ours:.2f}", ""))
        parts.append(f"{case['work']}\n\n{aligned(lines)}")
    return "\n\n".join(parts)
