"""Tables and figures as plain text."""

import textwrap
from collections.abc import Sequence
from itertools import zip_longest


def aligned(lines: Sequence[Sequence[str]], widest: Sequence[int] | None = None) -> str:
    """The cells of all lines in columns two spaces apart; longer cells than `widest` wrap, at spaces only.

    >>> print(aligned([("a", "bcd"), ("efg", "h")]))
    a    bcd
    efg  h
    >>> print(aligned([("one", "two and three")], widest=(3, 7)))
    one  two and
           three
    """
    if widest is not None:
        lines = [row for line in lines for row in _wrapped(line, widest)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in lines)


def wrapped(text: str, width: int, indent: str = "  ") -> list[str]:
    """The lines of a text, cut at spaces only; those after the first are indented.

    >>> wrapped("merging of tokens", 10)
    ['merging of', '  tokens']
    """
    return textwrap.wrap(text, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False) or [""]


def shown(figure: int | float | bool) -> str:
    """A figure as text: yes or no, whole numbers in full, others at three significant digits.

    >>> shown(True), shown(1024), shown(27.0), shown(12300.0), shown(0.000123)
    ('yes', '1024', '27.0', '12300', '0.000123')
    """
    if isinstance(figure, bool):
        return "yes" if figure else "no"
    if isinstance(figure, int):
        return str(figure)
    return f"{figure:.0f}" if 1000 <= abs(figure) < 1e9 else f"{figure:#.3g}".rstrip(".")


def _wrapped(line: Sequence[str], widest: Sequence[int]) -> list[tuple[str, ...]]:
    cells = [wrapped(cell, width) for cell, width in zip(line, widest, strict=True)]
    return list(zip_longest(*cells, fillvalue=""))
