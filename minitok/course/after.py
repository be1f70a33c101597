"""What a lesson's kernel is asked when its last cell has run: its peak memory, and whether the exercises are sound.

An exercise is a stub that the reader completes and a `check_N` that answers in a sentence: it begins with "right"
when the answer is right, and else says what is wrong. So each check has to refuse the stub that the lesson gives,
and to accept the function of the same name in the lesson's file of solutions, as if it were pasted into the lesson.
"""

import ast
import contextlib
import io
import json
import pathlib
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nbformat import NotebookNode

Call = tuple[str, list[str]]
QUESTION = "__import__('minitok.course.after', fromlist=['after']).report(globals(), {calls!r}, {solutions!r})"


def calls(notebook: "NotebookNode") -> list[Call]:
    """The exercises of a lesson: each call `check_N(stub)` as ("check_N", ["stub"]), in order.

    Calls in the body of a function do not count, nor do those whose arguments are more than names.
    """
    found = []
    for cell in notebook.cells:
        if cell.cell_type == "code" and "check_" in cell.source:
            plain = [part for part in ast.parse(cell.source).body if not isinstance(part, ast.FunctionDef)]
            found += [call for part in plain for node in ast.walk(part) if (call := _call(node))]
    return found


def _call(node: ast.AST) -> Call | None:
    if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name)):
        return None
    names = [argument.id for argument in node.args if isinstance(argument, ast.Name)]
    check = re.fullmatch(r"check_\d+", node.func.id) and names and len(names) == len(node.args)
    return (node.func.id, names) if check else None


def question(notebook: "NotebookNode", solutions: pathlib.Path | None) -> dict[str, str]:
    """The expression that a lesson's kernel is to work out, in the form of its protocol."""
    path = str(solutions) if solutions and solutions.exists() else None
    return {"minitok": QUESTION.format(calls=calls(notebook), solutions=path)}


def answer(reply: dict[str, Any]) -> dict[str, Any]:
    """What the kernel's reply to `question` says: `memory` and `problems`.

    Raises `RuntimeError`, with the kernel's traceback, where it says nothing.
    """
    found = reply["content"].get("user_expressions", {}).get("minitok", {"status": "aborted"})
    if found["status"] != "ok":
        raise RuntimeError("\n".join(["the kernel gave no report", *found.get("traceback", [])]))
    return json.loads(ast.literal_eval(found["data"]["text/plain"]))


def report(lesson: dict[str, Any], calls: Sequence[Call], solutions: str | None) -> str:
    """Asked in the lesson's kernel, with its global names: what `answer` gives, as JSON."""
    memory = peak_memory()
    return json.dumps({"memory": memory, "problems": [*problems(lesson, calls, solutions)]})


def peak_memory() -> float:
    """The most memory that this process has taken so far, in MB."""
    if sys.platform == "win32":
        import psutil

        return psutil.Process().memory_info().peak_wset / 1e6
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e6


def problems(lesson: dict[str, Any], calls: Sequence[Call], solutions: str | None) -> Iterator[str]:
    """What is wrong with the exercises, a sentence each: none where every stub is refused and every solution right."""
    if solutions is None:
        if calls:
            yield "its exercises have no file of solutions"
        return
    solved = lesson | {"__name__": "solutions"}
    exec(compile(pathlib.Path(solutions).read_text(encoding="utf-8"), solutions, "exec"), solved)
    for check, names in calls:
        sentence = said(lesson[check], [lesson[name] for name in names])
        if sentence.lower().startswith("right"):
            yield f"{check} takes the stub {', '.join(names)} for right: {sentence}"
        if missing := [name for name in names if solved[name] is lesson[name]]:
            yield f"{check} has no solution: {', '.join(missing)} is not in {pathlib.Path(solutions).name}"
            continue
        sentence = said(lesson[check], [solved[name] for name in names])
        if not sentence.lower().startswith("right"):
            yield f"{check} refuses the solution {', '.join(names)}: {sentence}"


def said(check: Callable[..., object], answers: Sequence[Any]) -> str:
    """What a check says, returned or printed; what it raises counts as said."""
    if torch := sys.modules.get("torch"):
        torch.manual_seed(0)
    printed = io.StringIO()
    try:
        with contextlib.redirect_stdout(printed):
            returned = check(*answers)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return printed.getvalue().strip() if returned is None else str(returned)
