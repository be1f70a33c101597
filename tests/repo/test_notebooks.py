"""The rules on notebooks: each has its source and keeps the limits, each exercise has a stub, a check and a solution.

That a check refuses the stub and accepts the solution is seen where the notebook runs, in its own kernel.
"""

import ast
import pathlib

import pytest

from minitok.course import after, lessons, rules

ROOT = pathlib.Path(__file__).parents[2]
NOTEBOOKS = sorted(path for path in (ROOT / "notebooks").glob("*/*.ipynb") if path.parent.name != "src")
SOLUTIONS = sorted((ROOT / "notebooks" / "src" / "solutions").rglob("*.py"))


def defined(path: pathlib.Path) -> set[str]:
    """The functions and the other names that a file of solutions defines."""
    nodes = [*ast.walk(ast.parse(path.read_text(encoding="utf-8")))]
    stored = {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    return stored | {node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.ClassDef)}


def test_every_source_has_its_notebook() -> None:
    assert [str(path) for path in lessons.sources() if not lessons.notebook_of(path).exists()] == []


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lessons.label)
def test_a_notebook_keeps_the_rules(path: pathlib.Path) -> None:
    assert rules.problems(path) == []


@pytest.mark.parametrize("path", SOLUTIONS, ids=lessons.label)
def test_each_exercise_has_a_solution_of_its_name(path: pathlib.Path) -> None:
    source = lessons.SOURCES / path.parent.name / path.name
    assert source.exists(), f"there is no lesson {lessons.label(path)}"
    calls = after.calls(lessons.read_source(source))
    assert len(calls) >= 2
    assert {name for _, names in calls for name in names} - defined(path) == set()
