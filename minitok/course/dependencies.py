"""What a figure depends on: every file of minitok that its code reaches by imports, and the models that it loads.

Leagues, benches and models' cards are not made again by CI. Each holds under `depends` the digest of every file that it
depended on when it was made, so that one can say what is no longer as it was measured. Comments, docstrings and blank
lines do not count. Data are named and pinned by the modules of `minitok.data`, which are reached like any other.
"""

import ast
import functools
import hashlib
import io
import json
import re
import tokenize
from collections.abc import Iterator, Mapping
from pathlib import Path

from minitok import files

# What only makes the course run does not change a figure.
MACHINERY = ("__main__", "cli", "course", "papers")
# The packages that load what the project ships by its name: the folder below data, and the ends of its files.
SHIPS = {"house": ("checkpoints", (".safetensors", ".json")), "stages": ("leagues", (".json",))}


def closure(path: Path) -> list[Path]:
    """The file itself, the files of minitok that it imports, and so on, also late or by name; and what they load.

    A name that a package only passes on leads to the module that defines it, not to all that the package passes on.
    """
    found, left = {path}, [path]
    while left:
        new = _leads_to(left.pop()) - found
        found |= new
        left += [other for other in new if other.suffix == ".py"]
    return [path, *sorted(found - {path})]


def digests(path: Path) -> dict[str, str]:
    """8 hexadecimal digits for each file of the closure, by its name from the project's root."""
    return {_name(file): _digest(file, file.stat().st_mtime_ns) for file in closure(path)}


def _name(file: Path) -> str:
    return (file.relative_to(files.ROOT) if file.is_relative_to(files.ROOT) else Path(file.name)).as_posix()


def digest(path: Path) -> str:
    """16 hexadecimal digits for the whole closure of a file."""
    return hashlib.sha256(json.dumps(digests(path)).encode()).hexdigest()[:16]


def changes(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """The files that have another digest now, are new or are gone, in order.

    >>> changes({"a": "1", "b": "2"}, {"a": "1", "b": "3", "c": "4"})
    ['b', 'c']
    """
    return sorted(name for name in {*before, *now} if before.get(name) != now.get(name))


def meaning(text: str) -> str:
    """The lines of a Python file without comments, docstrings and blank lines.

    >>> meaning('x = 1  # one\\n\\n\\ndef f():\\n    "Two."\\n    return x\\n')
    'x = 1\\ndef f():\\n    return x'
    """
    lines = text.splitlines()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            lines[token.start[0] - 1] = lines[token.start[0] - 1][: token.start[1]]
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and ast.get_docstring(
            node
        ):
            first = node.body[0]
            lines[first.lineno - 1 : first.end_lineno] = [""] * ((first.end_lineno or 0) - first.lineno + 1)
    return "\n".join(line.rstrip() for line in lines if line.strip())


@functools.cache
def _digest(file: Path, _changed: int) -> str:
    if file.suffix == ".py":
        content = meaning(file.read_text(encoding="utf-8")).encode()
    elif file.suffix == ".json":
        facts = json.loads(file.read_text(encoding="utf-8"))
        content = json.dumps({key: facts[key] for key in sorted(facts) if key != "depends"}).encode()
    else:
        content = file.read_bytes()
    return hashlib.sha256(content).hexdigest()[:8]


def _leads_to(file: Path) -> set[Path]:
    """What a file imports or loads itself."""
    tree = _tree(file, file.stat().st_mtime_ns)
    found, packages = set[Path](), set[str]()
    for module, name in _imports(tree):
        found |= _defined_in(module, name)
        packages |= {name} & SHIPS.keys() if module == "minitok" else set()
    texts = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    for text in texts:
        if re.fullmatch(r"minitok(\.\w+)+", text):
            module, _, name = text.rpartition(".")
            found |= _defined_in(module, name)
    all_of = {
        node.value.id
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and node.attr == "NAMES" and isinstance(node.value, ast.Name)
    }
    for package in packages:
        found |= _loaded(package, None if package in all_of else texts)
    return found


def _loaded(package: str, names: set[str] | None) -> set[Path]:
    """The shipped files of these names (None: of any) that a package loads, and its modules that do it."""
    folder, ends = SHIPS[package]
    there = {path.stem for path in files.shipped(folder).glob("*.json")}
    chosen = there if names is None else there & names
    found = {files.shipped(folder, f"{name}{end}") for name in chosen for end in ends}
    return {path for path in found | {files.PACKAGE / package / f"{name}.py" for name in chosen} if path.is_file()}


def _imports(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """What a module imports of minitok, anywhere in it: ("minitok.quantize", "FSQ")."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and f"{node.module}.".startswith("minitok."):
            yield from ((str(node.module), alias.name) for alias in node.names)
        elif isinstance(node, ast.Import):
            for alias in node.names:
                module, _, name = alias.name.rpartition(".")
                if module.split(".")[0] == "minitok":
                    yield module, name


def _defined_in(module: str, name: str) -> set[Path]:
    """The file that defines what `from module import name` gives; none for machinery and for no such module."""
    folder = files.PACKAGE.joinpath(*module.split(".")[1:])
    if {*module.split(".")[1:2], name if module == "minitok" else ""} & set(MACHINERY):
        return set()
    for path in (folder / f"{name}.py", folder / name / "__init__.py", folder.with_suffix(".py")):
        if path.is_file():
            return {path}
    package = folder / "__init__.py"
    if folder == files.PACKAGE or not package.is_file():
        return set()
    passed_on = [origin for origin, other in _imports(_tree(package, package.stat().st_mtime_ns)) if other == name]
    return _defined_in(passed_on[0], name) if passed_on else {package}


@functools.cache
def _tree(file: Path, _changed: int) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"))
