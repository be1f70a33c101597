"""Tables and figures as plain text."""

from collections.abc import Sequence


def aligned(lines: Sequence[Sequence[str]]) -> str:
    """The cells of all lines in columns two spaces apart.

    >>> print(aligned([("a", "bcd"), ("efg", "h")]))
    a    bcd
    efg  h
    """
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in lines)


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
