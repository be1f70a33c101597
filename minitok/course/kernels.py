"""How fast the Triton kernels are beside their peers and the floor: `minitok bench --kernels`, on a GPU.

The floor is the time that no version can beat: the larger of the bytes that must be moved over the bandwidth and the
operations over the rate of the unit that does them. Both ceilings are measured in the same run, by a large copy and a
large matrix product.
"""

import contextlib
import functools
import importlib
import importlib.util
from collections.abc import Callable
from typing import Any

import torch

from minitok.devices import median_seconds
from minitok.stages import timed_reduce
from minitok.stages.timed import Case, nearest, products
from minitok.tables import aligned

CASES: dict[str, Callable[[torch.device], Case]] = {
    "nearest": functools.partial(nearest, dtype=torch.float32),
    "nearest, far from zero": functools.partial(nearest, dtype=torch.float32, shift=100.0),
    "nearest, bfloat16": functools.partial(nearest, dtype=torch.bfloat16),
    "nearest, bfloat16, far from zero": functools.partial(nearest, dtype=torch.bfloat16, shift=100.0),
    "merging": functools.partial(timed_reduce.merging, dtype=torch.float32),
    "merging, bfloat16": functools.partial(timed_reduce.merging, dtype=torch.bfloat16),
    "choice": timed_reduce.choice,
    "max_min": timed_reduce.max_min,
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
                found = case.answers.get(who, call)().flatten()[: len(case.right)]
                milliseconds = round(1000 * median_seconds(call, device, 0.5), 3)
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
