"""The figures that lessons share: `viz.images`, `viz.lines`, `viz.bars`, ..., `viz.show`, and sliders."""

from minitok.tables import aligned, shown
from minitok.viz.figures import bars, images, lines, panel, patches
from minitok.viz.live import animation, ends, show, slider
from minitok.viz.palette import BACKGROUND, BASELINE, GRID, MUTED, OURS, PALETTE, PAPER, TEXT, style
from minitok.viz.tokens import painted, strip
from minitok.viz.trees import tree

__all__ = ["BACKGROUND", "BASELINE", "GRID", "MUTED", "OURS", "PALETTE", "PAPER", "TEXT"]
__all__ += ["aligned", "animation", "bars", "ends", "images"]
__all__ += ["lines", "painted", "panel", "patches", "show", "shown", "slider", "strip", "style", "tree"]
