"""The rules that all code keeps: imports go one way, nothing stands twice, files and functions are small."""

import ast
import pathlib
import statistics
from collections.abc import Iterator

import pytest

ROOT = pathlib.Path(__file__).parents[2]
PACKAGE = ROOT / "minitok"
MODULES = sorted(PACKAGE.rglob("*.py"))
CODE = [ROOT / "do.py", *MODULES, *sorted((ROOT / "tests").rglob("*.py"))]
FACES = {"__main__", "cli", "papers"}  # they lie at the root and stand on the floor of the course
FLOORS = ("root", "data", "chapter", "house", "stages", "course")
Function = ast.FunctionDef | ast.AsyncFunctionDef


def tree(path: pathlib.Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def functions(path: pathlib.Path) -> list[Function]:
    return [node for node in ast.walk(tree(path)) if isinstance(node, Function)]


def body(function: Function) -> list[ast.stmt]:
    return function.body[1:] if ast.get_docstring(function) is not None else function.body


def imports(path: pathlib.Path) -> Iterator[tuple[str, ...]]:
    """What a module imports of minitok, as in ("quantize", "fsq")."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name} imports by a relative path"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        yield from (tuple(name.split(".")[1:]) for name in names if name.startswith("minitok."))


def floor(part: str, package: pathlib.Path) -> str:
    """The floor on which a file or a folder of the package stands: it may import what stands on it or below."""
    if part in FACES:
        return "course"
    if part == "viz" or not (package / part).is_dir():
        return "root"
    return part if part in FLOORS else "chapter"


def wrong_imports(path: pathlib.Path, package: pathlib.Path) -> list[str]:
    part = path.relative_to(package).with_suffix("").parts[0]
    own = floor(part, package)

    def allowed(other: str) -> bool:
        if own == floor(other, package) == "chapter":
            return other in (part, "quantize")
        return FLOORS.index(floor(other, package)) <= FLOORS.index(own)

    return [".".join(parts) for parts in imports(path) if not allowed(parts[0])]


def fingerprint(function: Function) -> str | None:
    """A function's body without its docstring, its names numbered; None for one or two statements."""
    statements = body(function)
    nodes = [node for statement in statements for node in ast.walk(statement)]
    if sum(isinstance(node, ast.stmt) for node in nodes) <= 2:
        return None
    arguments = [node.arg for node in ast.walk(function.args) if isinstance(node, ast.arg)]
    stored = [node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)]
    numbers = {name: str(i) for i, name in enumerate(dict.fromkeys([*arguments, *stored]))}
    for node in nodes:
        if isinstance(node, ast.Name):
            node.id = numbers.get(node.id, node.id)
    return "\n".join(map(ast.dump, statements))


def copies(paths: list[pathlib.Path]) -> list[str]:
    first: dict[str, str] = {}
    found = []
    for path in paths:
        for function in functions(path):
            place, mark = f"{path.name}: {function.name}", fingerprint(function)
            if mark is not None and first.setdefault(mark, place) != place:
                found.append(f"{place} is {first[mark]}")
    return found


def too_large(path: pathlib.Path) -> list[str]:
    found = []
    if (lines := len(path.read_text(encoding="utf-8").splitlines())) > 200:
        found.append(f"{path.name} has {lines} lines, more than 200")
    for function in functions(path):
        length = (function.end_lineno or 0) - function.lineno + 1
        given = function.args
        count = len([*given.posonlyargs, *given.args, *given.kwonlyargs])
        count -= bool(given.args) and given.args[0].arg in ("self", "cls")
        if length > 50:
            found.append(f"{path.name}: {function.name} has {length} lines, more than 50")
        # A Triton kernel takes pointers, sizes and constants one by one.
        kernel = any(ast.unparse(decorator) == "triton.jit" for decorator in function.decorator_list)
        if count > 8 and not kernel:
            found.append(f"{path.name}: {function.name} has {count} parameters, more than 8")
    return found


def test_imports_go_one_way() -> None:
    assert {path.name: wrong for path in MODULES if (wrong := wrong_imports(path, PACKAGE))} == {}


@pytest.mark.parametrize(
    ("importer", "text", "wrong"),
    [
        ("nn.py", "from minitok import files, house", ["house"]),
        ("nn.py", "def f():\n    from minitok.image import titok", ["image.titok"]),
        ("nn.py", "import minitok.cli\nfrom minitok.data import mnist", ["cli", "data.mnist"]),
        ("viz/live.py", "from minitok.course import lessons\nfrom minitok import nn", ["course.lessons"]),
        ("data/mnist.py", "from minitok.image.titok import encode\nfrom minitok import nn", ["image.titok.encode"]),
        ("image/titok.py", "from minitok.image import _common\nfrom minitok.quantize import fsq\nimport torch", []),
        ("image/titok.py", "from minitok.reduce import tome\nfrom minitok.data import mnist", ["reduce.tome"]),
        ("image/titok.py", "from minitok import house", ["house"]),
        ("house/vit.py", "from minitok.image import titok\nfrom minitok.stages import image", ["stages.image"]),
        ("stages/image.py", "from minitok import house, papers\nfrom minitok.image import titok", ["papers"]),
        ("course/bench.py", "from minitok import cli, house, nn\nfrom minitok.stages import image", []),
        ("papers.py", "from minitok.course import registry", []),
    ],
)
def test_a_wrong_import_is_found(importer: str, text: str, wrong: list[str], tmp_path: pathlib.Path) -> None:
    for folder in ("course", "data", "house", "image", "quantize", "reduce", "stages", "viz"):
        (tmp_path / folder).mkdir()
    (tmp_path / importer).write_text(text)
    assert wrong_imports(tmp_path / importer, tmp_path) == wrong


def test_no_function_is_written_twice() -> None:
    assert copies(CODE) == []


def test_a_copy_with_other_names_is_found(tmp_path: pathlib.Path) -> None:
    first = 'def f(x):\n    """A."""\n    y = x + 1\n    z = g(y)\n    return z\n'
    other = "def h(a):\n    b = a + 1\n    c = g(b)\n    return c\n"
    for name, text in (("a.py", first), ("b.py", other), ("c.py", other.replace("g(", "k("))):
        (tmp_path / name).write_text(text)
    assert copies([tmp_path / name for name in ("a.py", "b.py", "c.py")]) == ["b.py: h is a.py: f"]


def test_modules_and_functions_are_small() -> None:
    assert [problem for path in [*MODULES, ROOT / "do.py"] for problem in too_large(path)] == []


def test_the_usual_function_is_short() -> None:
    lengths = [
        (function.end_lineno or 0) - statements[0].lineno + 2
        for path in MODULES
        for function in functions(path)
        if (statements := body(function))
    ]
    assert statistics.median(lengths) <= 12


def test_what_is_too_large_is_found(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "big.py"
    many = ", ".join("abcdefghi")
    kernel = f"@triton.jit\ndef k({many}):\n    pass\n"
    path.write_text(f"def f(self, {many}):\n" + "    pass\n" * 50 + "def g(*, a=1):\n    pass\n" + kernel + "\n" * 145)
    assert too_large(path) == [
        "big.py has 201 lines, more than 200",
        "big.py: f has 51 lines, more than 50",
        "big.py: f has 9 parameters, more than 8",
    ]


def test_every_module_says_what_it_is() -> None:
    assert [path.name for path in [*MODULES, ROOT / "do.py"] if not ast.get_docstring(tree(path))] == []
