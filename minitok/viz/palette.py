"""One palette and one style for every figure: dark on an opaque near-white ground, legible in every theme."""

from contextlib import AbstractContextManager
from typing import Any

BACKGROUND, TEXT, MUTED, GRID = "#FBFAF7", "#1F2328", "#666666", "#E4E1DA"
# Apart from one another in normal, protan, deutan and tritan vision, and 3:1 or more against the background.
PALETTE = ("#0072B2", "#D55E00", "#00A05A", "#4A1A5C", "#B873A6", "#6B4A12")
OURS, BASELINE, PAPER = PALETTE[0], PALETTE[1], PALETTE[3]
ROLES = {"ours": OURS, "baseline": BASELINE, "paper": PAPER, "muted": MUTED}


def style() -> AbstractContextManager[None]:
    """The context in which all figures are made: `with viz.style():` for a figure of your own."""
    import matplotlib
    from cycler import cycler

    ground = dict.fromkeys(("figure.facecolor", "savefig.facecolor", "axes.facecolor"), BACKGROUND)
    ink = dict.fromkeys(("text.color", "axes.labelcolor", "axes.titlecolor", "xtick.color", "ytick.color"), TEXT)
    edges = {"axes.edgecolor": MUTED, "axes.spines.top": False, "axes.spines.right": False}
    title = {
        "axes.titlesize": 12,
        "axes.titleweight": "bold",
        "axes.titlelocation": "left",
        "axes.titlepad": 10,
    }
    title |= {"figure.titlesize": 12, "figure.titleweight": "bold"}
    grid = {"axes.grid": True, "grid.color": GRID, "axes.axisbelow": True}
    legend = {"legend.facecolor": BACKGROUND, "legend.edgecolor": BACKGROUND, "legend.framealpha": 0.9}
    size = {"figure.dpi": 100, "savefig.dpi": "figure", "font.size": 10, "lines.linewidth": 2}
    cycle = {"axes.prop_cycle": cycler(color=PALETTE)}
    settings: dict[Any, Any] = {**ground, **ink, **edges, **title, **grid, **legend, **size, **cycle}
    return matplotlib.rc_context(settings)


def role(name: str) -> str | None:
    """The colour of the role whose name `name` begins with, in either case; None when there is none.

    >>> role("Baseline: raster"), role("swift")
    ('#D55E00', None)
    """
    return next((colour for start, colour in ROLES.items() if name.lower().startswith(start)), None)


def colours(names: list[str]) -> dict[str, str]:
    """A colour for each name: that of its role, else the palette's next that no role here has taken.

    >>> colours(["baseline: raster", "swift"])
    {'baseline: raster': '#D55E00', 'swift': '#0072B2'}

    Raises `ValueError` when there are more names without a role than free colours.
    """
    taken = [role(name) for name in names]
    free = [colour for colour in PALETTE if colour not in taken]
    others = taken.count(None)
    if others > len(free):
        raise ValueError(f"{others} names without a role for {len(free)} free colours: show fewer")
    rest = iter(free)
    return {name: colour or next(rest) for name, colour in zip(names, taken, strict=True)}
