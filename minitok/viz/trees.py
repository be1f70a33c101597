"""Trees of tokens, such as drafts: drawn from left to right, each parent in the middle of its children."""

import itertools
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from minitok.viz.figures import panel
from minitok.viz.palette import BACKGROUND, GRID, OURS, TEXT

if TYPE_CHECKING:
    import matplotlib.figure


def places(parents: Sequence[int]) -> list[tuple[int, float]]:
    """Level and height of the root and of each node, leaves being one apart; `parents` as in a tree of drafts.

    >>> places([0, 0, 1])
    [(0, 0.5), (1, 0.0), (1, 1.0), (2, 0.0)]
    """
    below: list[list[int]] = [[] for _ in range(len(parents) + 1)]
    levels = [0]
    for node, parent in enumerate(parents, start=1):
        below[parent].append(node)
        levels.append(levels[parent] + 1)
    leaves, heights = itertools.count(), [0.0] * len(below)

    def settle(node: int) -> float:
        inner = [settle(child) for child in below[node]]
        heights[node] = sum(inner) / len(inner) if inner else float(next(leaves))
        return heights[node]

    settle(0)
    return list(zip(levels, heights, strict=True))


def tree(
    words: Sequence[str], parents: Sequence[int], title: str, path: Collection[int] = ()
) -> "matplotlib.figure.Figure":
    """The root and its nodes by their words; those whose place is in `path` in colour.

    A space is drawn as a dot and a new line as \\n; words are cut after 14 signs. Raises `ValueError` where words and
    parents do not fit.
    """
    if len(words) != len(parents) + 1:
        raise ValueError(f"{len(words)} words came for a root and {len(parents)} nodes")
    spots = places(parents)
    deepest, highest = (max(values) for values in zip(*spots, strict=True))
    figure, axes = panel(title, "tokens ahead", "", width=7.5, height=1.2 + 0.13 * highest)
    box = {"facecolor": BACKGROUND, "edgecolor": "none", "pad": 0.6}
    for node, (word, (x, y)) in enumerate(zip(words, spots, strict=True)):
        above = spots[parents[node - 1]] if node else (x, y)
        ink, edge, weight = (OURS, OURS, "bold") if node in path else (TEXT, GRID, "normal")
        axes.plot([above[0], x], [above[1], y], color=edge, linewidth=1, zorder=0)
        shown = word.replace("\n", "\\n").replace(" ", "\u00b7")[:14]
        axes.text(x, y, shown, size=8, va="center", bbox=box, color=ink, weight=weight)
    axes.set(yticks=[], xticks=range(deepest + 1), xlim=(-0.1, max(deepest, 1) + 0.9), ylim=(highest + 1, -1))
    axes.grid(visible=False)
    return figure
