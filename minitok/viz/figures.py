"""The few figures that every notebook shares, and how a notebook shows them.

Each function returns a matplotlib `Figure` that no global state knows of; `show` turns it into a small
picture for a notebook's output, `slider` redraws it as the reader moves a control.
"""

import itertools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor

from minitok.viz.palette import BACKGROUND, MUTED, ROLES, colours, role, style

if TYPE_CHECKING:
    import matplotlib.axes
    import matplotlib.figure


def images(
    batch: Float[Tensor, "b c H W"],
    titles: Sequence[str] | None = None,
    columns: int = 8,
    title: str = "",
    height: float | int = 1.2,
) -> "matplotlib.figure.Figure":
    """A grid of images, row by row, each about `height` inches high, small ones enlarged by a whole factor.

    Values outside [0, 1] are shown as the nearer end. One channel is shown as gray.
    """
    b, c, h, w = batch.shape
    if c not in (1, 3) or b == 0:
        raise ValueError(f"batch has {b} images of {c} channels, expected one or more images of 1 or 3")
    if titles is not None and len(titles) != b:
        raise ValueError(f"titles has {len(titles)} entries for the {b} images of batch")
    if columns < 1 or height <= 0:
        raise ValueError(f"columns={columns} and height={height} must be above 0")
    columns = min(columns, b)
    rows = -(-b // columns)
    cell_h = h * round(100 * height / h) if h <= 100 * height else round(100 * height)
    cell_w = round(cell_h * w / h)
    # A row is as much higher as the longest of its titles has lines.
    words = [list(titles or [])[row * columns : (row + 1) * columns] for row in range(rows)]
    labels = [20 * max((t.count("\n") + 1 for t in row if t), default=0) for row in words]
    starts = [row * (cell_h + 6) + sum(labels[: row + 1]) + (36 if title else 6) for row in range(rows)]
    full_w, full_h = max(columns * (cell_w + 6) + 6, 11 * len(title) + 16), starts[-1] + cell_h + 6
    with style():
        figure = _figure(full_w / 100, full_h / 100)
        if title:
            figure.suptitle(title, x=6 / full_w, y=1 - 8 / full_h, ha="left", va="top")
        for i, image in enumerate(batch.detach().cpu().float().clamp(0, 1)):
            left, bottom = 6 + i % columns * (cell_w + 6), full_h - starts[i // columns] - cell_h
            axes = figure.add_axes((left / full_w, bottom / full_h, cell_w / full_w, cell_h / full_h))
            # Matplotlib's "antialiased" repeats pixels at a whole factor and smooths when it makes smaller.
            pixels = image.expand(3, h, w).permute(1, 2, 0).numpy()
            axes.imshow(pixels, interpolation="antialiased", aspect="auto")
            axes.axis("off")
            if titles:
                axes.set_title(titles[i], size=10, weight="normal", loc="center", pad=3)
    return figure


def lines(
    series: Mapping[str, tuple[Any, Any]],
    title: str,
    x: str,
    y: str,
    log: str = "",
    levels: Mapping[str, float | int] | None = None,
) -> "matplotlib.figure.Figure":
    """One line a series, `{"ours": (xs, ys)}`: lists, arrays or CPU tensors; `log` names axes, as in "xy".

    `levels` are dashed horizontal lines, `{"paper": 0.81}`. Names that begin with "ours", "baseline",
    "paper" or "muted" get the colours of these roles, the others the rest of the palette in order; a role and a colon
    before a name, as in "muted: pooling", are not shown. A log x-axis has its ticks at the measured points where they
    are few.
    """
    if log not in ("", "x", "y", "xy"):
        raise ValueError(f"log={log!r}, expected '', 'x', 'y' or 'xy'")
    with style():
        figure = _figure(6, 3.5, layout="constrained")
        axes = figure.add_subplot(title=title, xlabel=x, ylabel=y)
        inks = colours([*series, *(levels or {})])
        for (name, (xs, ys)), marker in zip(series.items(), itertools.cycle("osD^vP"), strict=False):
            points = {"marker": marker, "markersize": 5} if len(xs) <= 20 else {}
            axes.plot(xs, ys, label=_shown(name), color=inks[name], **points)
        for name, value in (levels or {}).items():
            axes.axhline(value, label=_shown(name), color=inks[name], linestyle="--", linewidth=1.5)
        axes.set(xscale="log" if "x" in log else "linear", yscale="log" if "y" in log else "linear")
        if "x" in log:
            _ticks_at(axes, sorted({float(x) for xs, _ in series.values() for x in xs}))
        if len(inks) > 3:
            figure.legend(loc="outside right upper")
        elif len(inks) > 1:
            axes.legend()
    return figure


def bars(values: Mapping[str, float | int], title: str, x: str, digits: int = 3) -> "matplotlib.figure.Figure":
    """A horizontal bar for each name, from the top, with its value to `digits` significant digits.

    Names that begin with "ours", "baseline" or "paper" have the colours of these roles, all others are gray; a role and
    a colon before a name are not shown.
    """
    with style():
        figure = _figure(6, 1.1 + 0.36 * len(values), layout="constrained")
        figure.suptitle(title, x=0.01, ha="left")  # from the figure's edge: long labels leave the axes little room
        axes = figure.add_subplot(xlabel=x)
        inks = [role(name) or MUTED for name in values]
        drawn = axes.barh(range(len(values)), list(values.values()), color=inks, height=0.7)
        axes.set_yticks(range(len(values)), [_shown(name) for name in values])
        axes.bar_label(drawn, [f"{value:.{digits}g}" for value in values.values()], padding=4)
        axes.invert_yaxis()
        axes.grid(axis="y", visible=False)
        axes.margins(x=0.12)
    return figure


def patches(
    image: Float[Tensor, "c H W"], size: int, title: str = "", keep: Bool[Tensor, "n"] | None = None
) -> "matplotlib.figure.Figure":
    """An image cut into patches of `size` x `size` pixels; faded where `keep` (in raster order) is false."""
    c, h, w = image.shape
    if c not in (1, 3) or size < 1 or h % size or w % size:
        raise ValueError(f"size={size} must divide an image of 1 or 3 channels, this one is {c}x{h}x{w}")
    rows, columns = h // size, w // size
    if keep is not None and len(keep) != rows * columns:
        raise ValueError(f"keep has {len(keep)} entries for {rows * columns} patches")
    ground = torch.tensor([int(BACKGROUND[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    pixels = image.detach().cpu().float().clamp(0, 1).expand(3, h, w)
    cells = rearrange(pixels, "c (row i) (column j) -> row column i j c", i=size, j=size)
    if keep is not None:
        shown = keep.cpu().view(rows, columns, 1, 1, 1)
        cells = torch.where(shown, cells, 0.15 * cells + 0.85 * ground)
    scale = max(1, 256 // max(h, w))
    gap = max(2, size * scale // 8)
    cells = cells.repeat_interleave(scale, 2).repeat_interleave(scale, 3)
    canvas = ground.expand(rows, columns, size * scale + gap, size * scale + gap, 3).clone()
    canvas[:, :, gap:, gap:] = cells
    whole = rearrange(canvas, "row column i j c -> 1 c (row i) (column j)")
    return images(whole, title=title, height=whole.shape[2] / 100)


def panel(
    title: str, x: str, y: str, width: float | int = 6, height: float | int = 3.5
) -> "tuple[matplotlib.figure.Figure, matplotlib.axes.Axes]":
    """An empty figure of the house's style, in inches, and its axes, to draw on: `figure, axes = viz.panel(...)`."""
    with style():
        figure = _figure(width, height, layout="constrained")
        return figure, figure.add_subplot(title=title, xlabel=x, ylabel=y)


def _shown(name: str) -> str:
    """A name without the role that only colours it: "muted: pooling" is shown as "pooling"."""
    first, _, rest = name.partition(": ")
    return rest if rest and first.lower() in ROLES else name


def _ticks_at(axes: "matplotlib.axes.Axes", points: list[float]) -> None:
    """Ticks of a log x-axis at these ascending points, in plain numbers, unless they are many or too near."""
    names = [f"{point:g}" for point in points]
    if not 2 <= len(points) <= 10 or points[0] <= 0 or any("e" in name for name in names):
        return
    # A step below a twelfth of the axis would let two names touch.
    if min(after / before for before, after in itertools.pairwise(points)) ** 12 >= points[-1] / points[0]:
        axes.set_xticks(points, names)
        axes.set_xticks([], minor=True)


def _figure(width: float | int, height: float | int, **options: Any) -> "matplotlib.figure.Figure":
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), **options)
