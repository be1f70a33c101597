"""do.py: its help, its messages where something is missing, and what it makes of a test run."""

import importlib.util
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import venv
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


@pytest.fixture
def with_pip(folder: pathlib.Path, do: ModuleType) -> None:
    """A .venv as Python makes it, with a pip of this one's: unpacking that which Python carries takes seconds."""
    pip = importlib.util.find_spec("pip")
    assert pip
    assert pip.origin
    venv.create(do.ENV, with_pip=False)
    (packages,) = (path for path in do.ENV.rglob("site-packages") if path.resolve().is_relative_to(do.ENV.resolve()))
    shutil.copytree(pathlib.Path(pip.origin).parent, packages / "pip")
    do.READY.write_text(f"{do.ROOT}\nunfinished", encoding="utf-8")


@pytest.mark.usefixtures("with_pip")
def test_what_cannot_be_had_is_told_and_nothing_looks_ready(folder: pathlib.Path, do: ModuleType) -> None:
    offline = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(folder), "UV_FIND_LINKS": str(folder), "UV_OFFLINE": "1"}
    done = call(folder, "lab", **offline)
    assert done.returncode == 1
    assert "the packages could not be installed" in done.stderr
    assert "There is no version that fits Python" in done.stderr
    assert "Traceback" not in done.stderr
    assert not do.is_ready()


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device", "The disk is full"),
        (
            "WARNING: Retrying (...) after connection broken by 'NewConnectionError(...)'\nERROR: No matching",
            "HTTPS_PROXY",
        ),
        ("ERROR: Package 'a' requires a different Python: 3.11.2 not in '>=3.11.5'", "no version that fits Python 3."),
        ("ERROR: Could not install packages due to an OSError: [Errno 13] Permission denied: 'x'", "cannot be written"),
        ("", "do settings of pip or uv send packages elsewhere?"),
        ("error: subprocess-exited-with-error", "The last lines above say why."),
    ],
)
def test_the_advice_says_what_failed(said: str, told: str, do: ModuleType) -> None:
    assert told in do.reason(said)


def test_ready_means_finished_here_up_to_date_and_with_minitok(
    do: ModuleType, folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    imported = [True]
    monkeypatch.setattr(do, "imports", lambda *names: imported[0])
    do.PYTHON.parent.mkdir(parents=True)
    do.PYTHON.touch()
    assert not do.is_ready()
    do.READY.write_text(do.wanted())
    assert do.is_ready()
    imported[0] = False
    assert not do.is_ready()
    imported[0] = True
    do.READY.write_text(do.wanted().replace(str(folder), str(folder / "where it was")))
    assert not do.is_ready()
    assert not do.is_whole()
    do.READY.write_text(do.wanted())
    with (folder / "constraints.txt").open("a") as file:
        file.write("more==1\n")
    assert not do.is_ready()
    assert do.is_whole()
    do.READY.write_text(do.wanted())
    do.PYTHON.unlink()
    assert not do.is_ready()


def test_an_environment_that_is_unfinished_or_was_moved_is_made_anew(
    do: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[bool] = []
    monkeypatch.setattr(do.venv, "create", lambda _, clear, with_pip: made.append(clear))
    monkeypatch.setattr(do, "install_by_uv", lambda: False)
    monkeypatch.setattr(do, "install_by_pip", lambda: None)
    monkeypatch.setattr(do, "imports", lambda *names: True)
    do.PYTHON.parent.mkdir(parents=True)
    do.PYTHON.touch()
    do.set_up()
    do.set_up()
    assert made == [True]
    assert do.is_ready()
    do.READY.write_text(f"{do.ROOT}\nan older version")
    do.set_up()
    assert made == [True]
    assert do.is_ready()
    do.READY.write_text(do.wanted().replace(str(do.ROOT), "elsewhere"))
    do.set_up()
    assert made == [True, True]
    assert do.is_ready()


def test_what_was_installed_elsewhere_is_not_ready(do: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(do.venv, "create", lambda *_, **__: None)
    monkeypatch.setattr(do, "module", lambda *_, **__: SimpleNamespace(returncode=0, stdout="", stderr=""))
    monkeypatch.setattr(do, "imports", lambda *names: False)
    with pytest.raises(SystemExit, match="do settings of pip or uv send packages elsewhere"):
        do.set_up()
    assert not do.READY.exists()


def test_pip_and_uv_are_told_where_packages_are_and_not_where_they_go(
    do: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = "global.index-url='https://example.org'\nglobal.user='true'\nglobal.find-links='\\na\\nb'\ninstall.target='/x'\n"
    monkeypatch.setattr(do, "module", lambda *_, **__: SimpleNamespace(stdout=said + ":env:.timeout='9'\n"))
    for name in ("PIP_INDEX_URL", "PIP_FIND_LINKS", "UV_FIND_LINKS"):
        monkeypatch.delenv(name, raising=False)
    wrong = {"PIP_USER": "1", "PIP_TARGET": "/y", "PIP_NO_DEPS": "1", "UV_SYSTEM_PYTHON": "1", "PYTHONPATH": "/z"}
    for name, value in wrong.items():
        monkeypatch.setenv(name, value)
    found = do.settings()
    assert {name: value for name, value in found.items() if name in wrong} == {"PYTHONPATH": ""}
    assert found["PIP_INDEX_URL"] == "https://example.org"
    assert (found["PIP_FIND_LINKS"], found["UV_FIND_LINKS"]) == ("a b", "a,b")
    assert found["PIP_CONFIG_FILE"] == os.devnull


@pytest.mark.parametrize(
    ("arguments", "tools"),
    [
        ([], ["ruff", "ruff", "basedpyright", "codespell_lib", "pytest", "minitok", "pytest"]),
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
    assert {command[-2:] == ("-k", "fsq") for command in calls} == {"-k" in arguments}
    monkeypatch.setattr(do, "module", lambda *command: SimpleNamespace(returncode=int(command[0] == tools[0])))
    assert do.test(arguments) == 1
    wrong = tools.count(tools[0])
    assert capsys.readouterr().out.endswith(f"{wrong} of {len(tools)} checks failed\n")


def test_other_jobs_take_the_place_of_do(do: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[list[str]] = []
    monkeypatch.setattr(do, "set_up", lambda: None)
    monkeypatch.setattr(do, "become", lambda command: calls.append(command) or 2)
    assert do.main(["tour", "cat.png", "--out", "x.html"]) == 2
    assert calls == [[str(do.PYTHON), "-P", "-m", "minitok", "tour", "cat.png", "--out", "x.html"]]


@pytest.mark.skipif(os.name != "posix", reason="signals are those of POSIX")
@pytest.mark.parametrize("system", ["posix", "other"])
def test_a_job_is_left_to_end_itself_on_ctrl_c(system: str, folder: pathlib.Path) -> None:
    job = (
        "import signal, sys, time\n"
        "signal.signal(signal.SIGINT, lambda *_: (time.sleep(1), print('saved', flush=True), sys.exit(3)))\n"
        "print('at work', flush=True)\n"
        "time.sleep(60)"
    )
    program = f"import do, sys; do.os.name = {system!r}; sys.exit(do.become([sys.executable, '-c', {job!r}]))"
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
        assert process.stdout
        assert process.stdout.readline() == "at work\n"
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: all processes of the group have it
        assert process.stdout.read() == "saved\n"
    assert process.returncode == 3


@pytest.mark.parametrize("flags", [["-P", "-m"], ["-m"]], ids=["as do.py says it", "as Python's users say it"])
def test_a_file_of_the_working_folder_hides_no_module(tmp_path: pathlib.Path, flags: list[str]) -> None:
    (tmp_path / "token.py").write_text("raise SystemExit('the wrong token')")
    command = [sys.executable, *flags, "minitok", "--version"]
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    assert done.returncode == 0, done.stderr
