"""do.py: its help, its messages where something is missing, and what it makes of a test run."""

import importlib.util
import os
import pathlib
import shutil
import subprocess
import sys
from types import ModuleType, SimpleNamespace

import pytest

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture
def folder(tmp_path: pathlib.Path) -> pathlib.Path:
    for name in ("do.py", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    return tmp_path


@pytest.fixture
def do(folder: pathlib.Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("do", folder / "do.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def call(folder: pathlib.Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(folder / "do.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment})


def test_alone_it_prints_its_jobs_and_makes_nothing(folder: pathlib.Path, do: ModuleType) -> None:
    done = call(folder)
    assert done.returncode == 0
    assert all(f"python do.py {job}" in done.stdout for job in do.JOBS)
    assert not (folder / ".venv").exists()


def test_an_unknown_job_is_named_and_makes_nothing(folder: pathlib.Path) -> None:
    done = call(folder, "dance")
    assert done.returncode == 1
    assert done.stderr.startswith("do.py: there is no job 'dance'; the jobs are lab, tour, test")
    assert not (folder / ".venv").exists()


def test_an_old_python_is_told_what_is_needed(do: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(do.sys, "version_info", (3, 10, 4))
    with pytest.raises(SystemExit, match=r"this is Python 3\.10\.4; the course needs 3\.11 or later"):
        do.main(["lab"])


def test_without_a_network_it_says_so_and_leaves_nothing_that_looks_ready(folder: pathlib.Path, do: ModuleType) -> None:
    offline = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(folder), "UV_OFFLINE": "1"}
    done = call(folder, "lab", **offline)
    assert done.returncode == 1
    assert "the packages could not be installed" in done.stderr
    assert "Is this machine on the network?" in done.stderr
    assert "Traceback" not in done.stderr
    assert not do.is_ready()


def test_ready_means_finished_up_to_date_and_there(do: ModuleType, folder: pathlib.Path) -> None:
    do.PYTHON.parent.mkdir(parents=True)
    do.PYTHON.touch()
    assert not do.is_ready()
    do.READY.write_text(do.wanted())
    assert do.is_ready()
    with (folder / "constraints.txt").open("a") as file:
        file.write("more==1\n")
    assert not do.is_ready()
    do.READY.write_text(do.wanted())
    do.PYTHON.unlink()
    assert not do.is_ready()


def test_an_unfinished_environment_is_made_anew(do: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[bool] = []
    monkeypatch.setattr(do.venv, "create", lambda _, clear, with_pip: made.append(clear))
    monkeypatch.setattr(do, "install_by_uv", lambda: False)
    monkeypatch.setattr(do, "install_by_pip", lambda: True)
    do.PYTHON.parent.mkdir(parents=True)
    do.PYTHON.touch()
    do.set_up()
    do.set_up()
    assert made == [True]
    assert do.is_ready()
    do.READY.write_text("an older version")
    do.set_up()
    assert made == [True]
    assert do.is_ready()


def test_uv_looks_where_pip_looks(do: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[tuple[str, ...], str | None]] = []

    def module(*command: str, **options: object) -> SimpleNamespace:
        environment = options.get("env") or {}
        assert isinstance(environment, dict)
        calls.append((command, environment.get("UV_FIND_LINKS")))
        return SimpleNamespace(returncode=0, stdout="a b\n" if command[:2] == ("pip", "config") else "")

    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    monkeypatch.delenv("UV_FIND_LINKS", raising=False)
    monkeypatch.setattr(do, "module", module)
    assert do.install_by_uv()
    assert calls[-1][0][:3] == ("uv", "pip", "install")
    assert calls[-1][1] == "a,b"


@pytest.mark.parametrize(
    ("arguments", "tools"),
    [
        ([], ["ruff", "ruff", "basedpyright", "codespell_lib", "pytest", "pytest"]),
        (["lint"], ["ruff", "ruff"]),
        (["unit", "-k", "fsq"], ["pytest"]),
    ],
)
def test_steps_go_on_after_a_failure_and_their_sum_is_told(
    arguments: list[str],
    tools: list[str],
    do: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    calls: list[tuple[str, ...]] = []
    monkeypatch.setattr(do, "module", lambda *command: calls.append(command) or SimpleNamespace(returncode=0))
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert do.test(arguments) == 0
    assert [command[0] for command in calls] == tools
    assert capsys.readouterr().out.endswith(f"all {len(tools)} checks passed\n")
    assert [command[-2:] == ("-k", "fsq") for command in calls] == ["-k" in arguments] * len(tools)
    monkeypatch.setattr(do, "module", lambda *command: SimpleNamespace(returncode=int(command[0] == tools[0])))
    assert do.test(arguments) == 1
    wrong = tools.count(tools[0])
    assert capsys.readouterr().out.endswith(f"{wrong} of {len(tools)} checks failed\n")


def test_other_jobs_are_passed_on_with_their_arguments(do: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[list[str]] = []
    monkeypatch.setattr(do, "set_up", lambda: None)
    monkeypatch.setattr(do.subprocess, "call", lambda command: calls.append(command) or 2)
    assert do.main(["tour", "cat.png", "--out", "x.html"]) == 2
    assert calls == [[str(do.PYTHON), "-m", "minitok", "tour", "cat.png", "--out", "x.html"]]
