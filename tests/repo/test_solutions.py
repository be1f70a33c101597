"""The solutions of the exercises: plain files that define what was asked for and assert that it is right."""

import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]
SOURCES = ROOT / "notebooks" / "src"
SOLUTIONS = sorted((SOURCES / "solutions").rglob("*.py"))


@pytest.mark.parametrize("path", SOLUTIONS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_solutions_pass_the_checks_of_their_lesson(path: pathlib.Path) -> None:
    lesson = SOURCES / path.relative_to(SOURCES / "solutions")
    assert lesson.exists(), f"there is no lesson {lesson.relative_to(ROOT)}"
    command = [sys.executable, str(path)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=path.parent, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("path", SOLUTIONS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_solutions_assert_something(path: pathlib.Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert "assert" in text or "check_" in text
