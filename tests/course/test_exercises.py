"""What a kernel is asked after a lesson's last cell: whether its checks refuse stubs and accept solutions."""

import pathlib
from functools import partial

import nbformat
import pytest

from minitok.course import after

CELLS = [
    "def double(x):\n    return x",
    "def check_1(f):\n    check_9(f)\n    return 'right' if f(2) == 4 else 'wrong'\n\n\ncheck_1(double)",
    "print(check_2(low, high))",
    "check_3(low(1))\ncheck_4()\nother(low)",
]


def lesson(**more):
    def double(x):
        return x

    def check_1(f):
        return "right: 4" if f(2) == 4 else f"2 should become 4, not {f(2)}"

    return {"double": double, "check_1": check_1, **more}


@pytest.fixture
def solutions(tmp_path: pathlib.Path):
    def write(text: str) -> str:
        path = tmp_path / "01_double.py"
        path.write_text(text)
        return str(path)

    return write


def found(lesson, path, calls=(("check_1", ["double"]),)):
    return [*after.problems(lesson, calls, path)]


def test_calls_of_checks_are_found_by_the_names_that_they_are_given() -> None:
    cells = [nbformat.v4.new_code_cell(text) for text in CELLS] + [nbformat.v4.new_markdown_cell("check_5(x) = (")]
    assert after.calls(nbformat.v4.new_notebook(cells=cells)) == [
        ("check_1", ["double"]),
        ("check_2", ["low", "high"]),
    ]


def test_a_stub_that_is_refused_and_a_solution_that_is_right_are_sound(solutions) -> None:
    assert found(lesson(), solutions("def double(x):\n    return 2 * x\n")) == []


def test_a_solution_may_use_what_the_lesson_has_and_leaves_the_lesson_alone(solutions) -> None:
    names = lesson(two=2)
    assert found(names, solutions("def double(x):\n    return two * x\ntwo = 2.0\n")) == []
    assert names["double"](2) == 2
    assert names["two"] == 2


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("def double(x):\n    return 3 * x\n", "check_1 refuses the solution double: 2 should become 4, not 6"),
        ("def double(x):\n    return x / 0\n", "check_1 refuses the solution double: ZeroDivisionError"),
        ("def twice(x):\n    return 2 * x\n", "check_1 has no solution: double is not in 01_double.py"),
    ],
)
def test_a_solution_that_is_wrong_or_missing_is_told(text: str, problem: str, solutions) -> None:
    (told,) = found(lesson(), solutions(text))
    assert told.startswith(problem)


def test_a_check_that_takes_its_stub_for_right_is_told(solutions) -> None:
    names = lesson(check_1=lambda f: "Right.")
    assert found(names, solutions("def double(x):\n    return 2 * x\n")) == [
        "check_1 takes the stub double for right: Right."
    ]


def test_checks_may_be_partial_and_may_print(solutions) -> None:
    def told(wanted, f):
        print("right" if f(2) == wanted else "no")

    assert found(lesson(check_1=partial(told, 4)), solutions("def double(x):\n    return 2 * x\n")) == []


def test_exercises_without_a_file_of_solutions_are_told() -> None:
    assert found(lesson(), None) == ["its exercises have no file of solutions"]
    assert found({}, None, ()) == []


def test_random_numbers_start_alike_for_every_answer() -> None:
    import torch

    def check(f):
        return str(float(torch.rand(())))

    assert after.said(check, [None]) == after.said(check, [None])


def test_the_peak_of_memory_is_that_of_a_process_with_torch() -> None:
    assert 100 < after.peak_memory() < 20_000


def test_a_kernel_without_a_report_is_told() -> None:
    with pytest.raises(RuntimeError, match="the kernel gave no report"):
        after.answer({"content": {"status": "aborted"}})
