"""Kernels forked from a warm process: as good as new ones, several at once, and nothing is left of them."""

import os
import pathlib
import shutil
import signal
import threading

import nbformat
import psutil
import pytest

from minitok.course import execution, forks

pytestmark = [
    pytest.mark.skipif(not forks.possible(), reason="this system does not fork"),
    pytest.mark.usefixtures("cold"),
]

# What a lesson could see of another kernel, of the warm process or of the way in which it came to life.
STATE = """
import os, random, sys
import matplotlib, numpy, torch
random.random(), numpy.random.rand()
import matplotlib.pyplot as plt
print(sorted(name for name in globals() if name[0] != "_"))
print(sys.modules["__main__"].__dict__ is globals(), __name__)
print(sys.argv[:2], sys.argv[3:], sys.path, os.getcwd(), sys.stdin.read() == "")
print({name: value for name, value in sorted(os.environ.items()) if name != "JPY_PARENT_PID"})
print({name: value for name, value in matplotlib.rcParams.items()})
print(torch.get_num_threads(), torch.get_default_dtype(), torch.is_grad_enabled())
"""
USE = """
import signal, subprocess, sys
from ipywidgets import IntSlider
seen = []
slider = IntSlider()
slider.observe(seen.append, "value")
slider.value = 3
x = torch.ones(3, requires_grad=True)
(x * x).sum().backward()
figure = plt.plot([1, 2])
print(len(seen), x.grad, signal.getsignal(signal.SIGCHLD), subprocess.run([sys.executable, "-c", "1"]).returncode)
"""
DRAW = "print(random.random(), numpy.random.rand(), float(torch.rand(())))"


def notebook(*cells: str) -> nbformat.NotebookNode:
    return nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(text) for text in cells])


def outputs(fresh: bool, folder: pathlib.Path) -> tuple[list[str], set[str]]:
    """What a kernel sees, and the random numbers that it draws."""
    book = notebook(STATE, USE, DRAW)
    execution.run(book, folder, {"MINITOK_PICTURE": "a.png"}, fresh=fresh)
    kinds = [sorted(output.get("data", {})) for output in book.cells[1].outputs]
    texts = [cell.outputs[0].text for cell in book.cells]
    return [*texts[:2], str(kinds)], set(texts[2].split())


def running() -> set[int]:
    """The kernels and warm processes that descend from this one."""
    assert forks.SERVER.process
    there = psutil.Process(forks.SERVER.process.pid).children(recursive=True)
    return {one.pid for one in there if one.status() != psutil.STATUS_ZOMBIE}


def test_a_forked_kernel_is_like_a_fresh_one(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fresh, _ = outputs(True, tmp_path)
    monkeypatch.setattr(forks, "SERVER", forks.Server())
    forked, some = outputs(False, tmp_path)
    another = notebook("import random, numpy, torch", DRAW)
    execution.run(another, tmp_path, {})
    forks.SERVER.close()
    others = set(another.cells[1].outputs[0].text.split())
    assert forked == fresh
    assert "image/png" in fresh[2]
    assert "'MINITOK_PICTURE': 'a.png'" in fresh[0]
    assert str(tmp_path) in fresh[0]
    assert len(some | others) == 6


def test_two_kernels_run_at_once_and_know_nothing_of_each_other(tmp_path: pathlib.Path) -> None:
    meet = "import pathlib, time\npathlib.Path('{0}').touch()\n"
    meet += "while not pathlib.Path('{1}').exists():\n    time.sleep(0.05)"
    books = [notebook(meet.format(*names), "print(sorted(globals())[0])") for names in ("ab", "ba")]
    threads = [threading.Thread(target=execution.run, args=(book, tmp_path, {})) for book in books]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert [len(book.cells[1].outputs) for book in books] == [1, 1]


def test_a_kernel_that_dies_is_told_and_leaves_nothing(tmp_path: pathlib.Path) -> None:
    with pytest.raises(execution.CellError, match="cell 1: DeadKernelError"):
        execution.run(notebook("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)"), tmp_path, {})
    assert running() == set()


def test_after_the_warm_process_was_killed_another_starts(tmp_path: pathlib.Path) -> None:
    execution.run(notebook("1"), tmp_path, {})
    assert forks.SERVER.process
    killed = forks.SERVER.process.pid
    os.kill(killed, signal.SIGKILL)
    execution.run(notebook("1"), tmp_path, {})
    assert forks.SERVER.process.pid != killed


def test_the_end_of_the_warm_process_ends_its_kernels(tmp_path: pathlib.Path) -> None:
    execution.run(notebook("1"), tmp_path, {})
    order = {"arguments": ["-f", str(tmp_path / "kernel.json")], "folder": str(tmp_path), "quiet": True}
    kernels = [psutil.Process(forks.SERVER.fork(order | {"environment": dict(os.environ)})) for _ in range(2)]
    forks.SERVER.close()
    assert psutil.wait_procs(kernels, timeout=10)[1] == []


def test_a_warm_process_that_cannot_start_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forks.sys, "executable", shutil.which("false"))
    with pytest.raises(RuntimeError, match="no kernel can be forked; `--fresh-kernels` starts each of them anew"):
        forks.Server().fork({})


def test_cpu_seconds_are_those_of_the_cells(tmp_path: pathlib.Path) -> None:
    busy = "import time\nend = time.process_time() + 0.5\nwhile time.process_time() < end:\n    pass"
    cost = execution.run(notebook("import time\ntime.sleep(0.3)", busy), tmp_path, {})
    assert 0.45 < cost.cpu < 1.5
    assert cost.memory > 50
