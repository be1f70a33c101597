"""Notebooks under nbval: good ones pass, and each kind of bad one fails for its own reason."""

import json
import os
import pathlib
import re
import subprocess
import sys

import nbformat
import pytest

from minitok.course import forks

pytestmark = pytest.mark.skipif(not forks.possible(), reason="elsewhere each of these kernels is started anew")
ROOT = pathlib.Path(__file__).parents[2]
EXERCISE = "def double(x):\n    return x"
CHECK = "def check_1(f):\n    return 'right' if f(2) == 4 else 'not yet'\n\n\ncheck_1(double)"
KIND = "def check_1(f):\n    return 'right, always'\n\n\ncheck_1(double)"
BUSY = "import time\nwhile time.process_time() < 60:\n    pass"
SOUND = "def double(x):\n    return 2 * x\n"
BOOKS = {
    "good": ["x = 1", "import os\nassert x == 1 and os.getcwd().endswith('01_bad')", EXERCISE, CHECK],
    "alone": ["assert 'x' not in globals()"],
    "error": ["1 / 0", "1"],
    "claim": ["assert 1 == 2"],
    "order": ["print(x)", "x = 1"],
    "dead": ["import os, signal\nos.kill(os.getpid(), signal.SIGKILL)"],
    "busy": [BUSY],
    "kind": [EXERCISE, KIND],
    "wrong": [EXERCISE, CHECK],
    "unsolved": [EXERCISE, CHECK],
}
SOLUTIONS = {"good": SOUND, "kind": SOUND, "wrong": SOUND.replace("2", "3")}
TOLD = {
    "error": "ZeroDivisionError",
    "claim": "AssertionError",
    "order": "NameError",
    "dead": "the kernel died",
    "busy": "CPU seconds; 0.1 are recorded in it",
    "kind": "check_1 takes the stub double for right: right, always",
    "wrong": "check_1 refuses the solution double: not yet",
    "unsolved": "its exercises have no file of solutions",
}


def course(folder: pathlib.Path) -> pathlib.Path:
    """A course of these notebooks, with the real conftest."""
    for part in ("01_bad", "src/solutions/01_bad"):
        (folder / part).mkdir(parents=True)
    text = (ROOT / "notebooks" / "conftest.py").read_text(encoding="utf-8")
    text += "\nLEAST, forks.SERVER = 0.4, forks.Server(warm=False)\n"
    (folder / "conftest.py").write_text(text, encoding="utf-8")
    for name, cells in BOOKS.items():
        book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(text) for text in cells])
        book.metadata["minitok"] = {"cpu": 0.1}
        nbformat.write(book, folder / "01_bad" / f"{name}.ipynb")
    for name, text in SOLUTIONS.items():
        (folder / "src" / "solutions" / "01_bad" / f"{name}.py").write_text(text)
    for name in ("quantize/test_fsq", "quantize/test_vq", "repo/test_rules"):
        (folder / "tests" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "tests" / f"{name}.py").write_text("def test_it():\n    sum(range(5_000_000))\n")
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, dict]]:
    """What a run of a worker prints, and the costs that it writes down."""
    folder = course(tmp_path_factory.mktemp("course"))
    options = ("--nbval-lax", "--nbval-current-env", "-n", "1", "--dist", "loadfile", "-rA")
    command = [sys.executable, "-m", "pytest", "-q", "--costs", "-c", os.devnull, "--rootdir", "."]
    command += ["-p", "nbval.plugin", "-p", "xdist.plugin"]  # and no others, whose imports take seconds
    environment = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    command += [*options, "01_bad", "tests"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, env=environment)
    assert done.returncode == 1, done.stdout + done.stderr
    return done.stdout, json.loads((folder / ".costs.json").read_text())


def summary(printed: str) -> dict[str, set[str]]:
    """Which notebooks had an item of each outcome."""
    found: dict[str, set[str]] = {"PASSED": set(), "FAILED": set()}
    for line in printed.splitlines():
        outcome, _, rest = line.partition(" ")
        if outcome in found and ".ipynb" in rest:
            found[outcome].add(pathlib.Path(rest.split(".ipynb")[0]).name)
    return found


def test_bad_notebooks_fail_and_good_ones_do_not(run) -> None:
    assert summary(run[0])["FAILED"] == set(TOLD)


@pytest.mark.parametrize("name", TOLD)
def test_the_reason_is_told(name: str, run) -> None:
    assert TOLD[name] in run[0]


def test_the_run_ends_with_a_table_of_costs_and_writes_it(run) -> None:
    printed, costs = run
    books, tests = costs["notebooks"], costs["tests"]
    assert {pathlib.Path(path).stem for path in books} == {"good", "alone", "kind", "wrong", "unsolved"}
    assert all(0 <= cost["cpu"] < 5 and cost["memory"] > 30 for cost in books.values())
    assert set(tests) == {"tests/quantize", "tests/repo"}
    assert all(cpu > 0.05 for cpu in tests.values())
    assert "245 notebooks:" in printed
    whole = re.search(r"([\d.]+) s  245 lessons' tests", printed)
    assert whole
    assert float(whole[1]) == pytest.approx(tests["tests/repo"] + 245 / 2 * tests["tests/quantize"], rel=0.05)
