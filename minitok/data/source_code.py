"""Python source code that comes with Python: the installed standard library, without its tests.

What: about 730 files, 12 MB of text, and 6,800 pairs of a docstring's summary and its function (Python 3.11).
The files differ between versions and builds of Python: compare nothing to fixed numbers.
Licence: PSF. Attribution: the authors of Python.
URL: https://github.com/python/cpython/tree/main/Lib
"""

import ast
import os
import pathlib
import sysconfig
import tokenize
import warnings
from collections.abc import Iterator
from itertools import islice

from minitok.data import check_limit

_NOT_OURS = {"site-packages", "dist-packages", "test", "tests", "idle_test"}


def _paths() -> list[tuple[str, pathlib.Path]]:
    """All source files as (name with slashes, path), sorted by name."""
    root = pathlib.Path(sysconfig.get_paths()["stdlib"])
    found = []
    for folder, folders, names in os.walk(root):
        folders[:] = [name for name in folders if name not in _NOT_OURS]
        found += [pathlib.Path(folder, name) for name in names if name.endswith(".py")]
    return sorted((path.relative_to(root).as_posix(), path) for path in found)


def _read() -> Iterator[tuple[str, str]]:
    for name, path in _paths():
        with tokenize.open(path) as file:
            yield name, file.read()


def files(limit: int | None = None) -> list[tuple[str, str]]:
    """The first `limit` source files (default: all) as (name, text), sorted by name ("json/decoder.py")."""
    check_limit(limit)
    return list(islice(_read(), limit))


def pairs(limit: int | None = None) -> list[tuple[str, str]]:
    """The first `limit` (default: all) pairs of a docstring's summary and its function's source.

    The summary is the docstring's first paragraph on one line; the source lacks the docstring and starts at
    the margin. They come in the order of `files`, top to bottom, without functions that hold nothing
    but a docstring. All pairs take some seconds.
    """
    check_limit(limit)
    return list(islice((pair for _, text in _read() for pair in pairs_of(text)), limit))


def pairs_of(text: str) -> Iterator[tuple[str, str]]:
    r"""The pairs of one source text, from top to bottom.

    >>> list(pairs_of('def double(x):\n    "Twice x."\n    return 2 * x\n'))
    [('Twice x.', 'def double(x):\n    return 2 * x')]
    """
    with warnings.catch_warnings(action="ignore"):
        tree = ast.parse(text)
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    # not splitlines: it also splits at form feeds, which Python's line numbers do not count
    lines = text.split("\n")
    for node in sorted(functions, key=lambda node: node.lineno):
        summary = " ".join((ast.get_docstring(node) or "").split("\n\n")[0].split())
        if summary and (source := _without_docstring(node, lines)):
            yield summary, source


def _without_docstring(node: ast.FunctionDef | ast.AsyncFunctionDef, lines: list[str]) -> str:
    """The function's lines less its docstring's; "" where that shares a line or is the whole body."""
    docstring, rest = node.body[0], node.body[1:]
    if not rest or docstring.lineno == node.lineno or docstring.end_lineno == rest[0].lineno:
        return ""
    kept = lines[node.lineno - 1 : docstring.lineno - 1] + lines[docstring.end_lineno : node.end_lineno]
    indent = node.col_offset
    return "\n".join(line[indent:] if line[:indent].isspace() else line for line in kept)
