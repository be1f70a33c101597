"""One file for all that one does with the course. It needs only Python 3.11 or later, on any system.

    python do.py lab                 open the course in JupyterLab, at the tour
    python do.py tour PICTURE        the same tour on a picture of yours, as one HTML page
    python do.py test [STEP ...]     all that CI checks, or only: lint types spelling unit docs notebooks
    python do.py notebooks [PATH]    make notebooks from their sources
    python do.py docs                make the notebooks into a site, in build/site
    python do.py data                bring all data that the notebooks read, for work without a network
    python do.py train NAME          train a house model
    python do.py league NAME         compute the league table of a chapter
    python do.py bench               time the models on this machine

Where there is no `python`, say `python3`. The first call makes the folder .venv (a minute or so). More arguments go to
the job, as in `python do.py tour --help`; those of `test` go to pytest, as in `python do.py test unit -k fsq`.
On Linux without a GPU, UV_TORCH_BACKEND=cpu in the environment saves gigabytes of that first download.
"""

from __future__ import annotations

import ast
import contextlib
import hashlib
import os
import pathlib
import re
import subprocess
import sys
import time
import venv
from collections.abc import Sequence
from typing import Any

ROOT = pathlib.Path(__file__).resolve().parent
ENV = ROOT / ".venv"
PYTHON = ENV / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
READY = ENV / "ready"
PINS = ("-c", "constraints.txt")
NEEDED = ("minitok", "torch", "jupyterlab")
JOBS = ("lab", "tour", "test", "notebooks", "docs", "data", "train", "league", "bench")
NBVAL = ("--nbval-lax", "--nbval-current-env", "--nbval-cell-timeout=300", "-n", "2", "--dist", "loadfile")
STEPS = {
    "lint": [["ruff", "check", "."], ["ruff", "format", "--check", "."]],
    "types": [["basedpyright", "--pythonpath", str(PYTHON)]],
    "spelling": [["codespell_lib"]],
    "unit": [["pytest", "-q", "-n", "2", "--costs"]],
    "docs": [["minitok", "docs"]],
    "notebooks": [["pytest", "-q", *NBVAL, "--costs", "notebooks"]],
}
ELSEWHERE = r"PIP_(USER|TARGET|PREFIX|ROOT|PYTHON|NO_DEPS|DRY_RUN)|UV_(PYTHON|SYSTEM_PYTHON)"
REASONS = {
    r"No space left|[Qq]uota|Errno 28\b": "The disk is full. The packages take 2 GB, and 8 GB with CUDA.",
    r"Permission denied|Read-only|Errno 13\b": "A folder cannot be written; the line with the error names it.",
    r"Retrying|Connection|Timeout|Proxy|SSL|CERTIFICATE": "Is this machine on the network? Does it need HTTPS_PROXY?",
    r"Requires-Python|different Python|No matching|Impossible": "There is no version that fits Python {python}.",
    r"^\s*$": "pip ended well, yet minitok cannot be imported: do settings of pip or uv send packages elsewhere?",
}
HELP = """
do.py: the packages could not be installed; what pip says of it stands above.
  {reason}
Nothing half-made is kept in use: run the same command again when that is mended."""


def wanted() -> str:
    """What `ready` says of a finished .venv: where it is, and a hash of the two files that say what belongs into it."""
    content = b"".join((ROOT / name).read_bytes() for name in ("pyproject.toml", "constraints.txt"))
    return "\n".join([str(ROOT), hashlib.sha256(content.replace(b"\r\n", b"\n")).hexdigest()])


def is_whole() -> bool:
    """Whether .venv was finished, here, and its interpreter is still there: a folder that was moved is broken."""
    said = READY.read_text(encoding="utf-8") if READY.exists() else ""
    return PYTHON.exists() and said.splitlines()[:1] == [str(ROOT)]


def imports(*names: str) -> bool:
    """Whether the interpreter of .venv can import these."""
    return subprocess.run([str(PYTHON), "-I", "-c", f"import {', '.join(names)}"], capture_output=True).returncode == 0


def is_ready() -> bool:
    """Whether .venv is whole, up to date, and has minitok."""
    return is_whole() and READY.read_text(encoding="utf-8") == wanted() and imports("minitok")


def set_up() -> None:
    """Makes .venv, or brings it up to date. A folder that was not finished is made anew."""
    if is_ready():
        return
    print("do.py: setting up .venv, once", flush=True)
    if not is_whole():
        try:
            venv.create(ENV, clear=True, with_pip=True)
        except (OSError, subprocess.CalledProcessError) as error:
            sys.exit(f"do.py: {ENV} cannot be made ({error}). On Debian and Ubuntu: apt install python3-venv")
    READY.unlink(missing_ok=True)
    if not install_by_uv():
        said = install_by_pip()
        if said is not None:
            sys.exit(HELP.format(reason=reason(said)))
    READY.write_text(wanted(), encoding="utf-8")


def module(*command: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """Runs `python -m ...` with the interpreter of .venv."""
    return subprocess.run([str(PYTHON), "-m", *command], cwd=ROOT, text=True, **options)


def settings() -> dict[str, str]:
    """The environment for pip and uv: what the files of pip say, without what would send packages elsewhere."""
    listed = module("pip", "config", "list", capture_output=True).stdout
    rows = re.findall(r"^(?:global|install)\.([\w-]+)=(.*)$", listed, re.MULTILINE)
    read = {f"PIP_{name.upper().replace('-', '_')}": " ".join(ast.literal_eval(value).split()) for name, value in rows}
    given = {**read, **os.environ, "PIP_CONFIG_FILE": os.devnull, "PYTHONPATH": "", "PYTHONNOUSERSITE": "1"}
    if "PIP_FIND_LINKS" in given:  # uv reads nothing of pip's
        given.setdefault("UV_FIND_LINKS", ",".join(given["PIP_FIND_LINKS"].split()))
    return {name: value for name, value in given.items() if not re.fullmatch(ELSEWHERE, name)}


def install_by_uv() -> bool:
    """Installs everything by uv, faster than pip; false where there is no uv, or it gives up."""
    apart, command = settings(), ("pip", "install", "-q", "--retries", "1", *PINS, "uv")
    if module(*command, env=apart, capture_output=True).returncode:
        return False
    command = ("uv", "pip", "install", "--python", str(PYTHON), *PINS, "-e", ".[all]")
    return module(*command, env=apart).returncode == 0 and imports(*NEEDED)


def install_by_pip() -> str | None:
    """Installs everything by pip; None when that went well, else what pip said was wrong, which is also shown."""
    command = ("pip", "install", "--retries", "1", *PINS, "-e", ".[all]")
    done = module(*command, env=settings(), stderr=subprocess.PIPE)
    print(done.stderr, end="", file=sys.stderr)
    return None if done.returncode == 0 and imports(*NEEDED) else done.stderr


def reason(said: str) -> str:
    """What to do about a failure, from what pip said of it."""
    python = ".".join(map(str, sys.version_info[:3]))
    found = (told for pattern, told in REASONS.items() if re.search(pattern, said))
    return next(found, "The last lines above say why.").format(python=python)


def test(arguments: Sequence[str]) -> int:
    """Runs the steps that are named first among the arguments, or all; the other arguments go to pytest."""
    named = [name for name in arguments if name in STEPS]
    rest = [name for name in arguments if name not in STEPS]
    os.environ["OMP_NUM_THREADS"] = "1"
    results = []
    for step in named or STEPS:
        for command in STEPS[step]:
            print(f"\n== {step}: {' '.join(command)}", flush=True)
            start = time.perf_counter()
            more = rest if command[0] == "pytest" else []
            status = module(*command, *more).returncode
            results.append((status, time.perf_counter() - start, f"{step}: {command[0]}"))
    print()
    for status, seconds, name in results:
        print(f"{'failed' if status else 'ok':6} {seconds:7.1f} s  {name}")
    failed = sum(status != 0 for status, _, _ in results)
    print(f"{failed} of {len(results)} checks failed" if failed else f"all {len(results)} checks passed")
    return 1 if failed else 0


def become(command: list[str]) -> int:
    """Runs a command in place of this program, so that Ctrl-C and other signals are the command's alone."""
    sys.stdout.flush()
    if os.name == "posix":
        os.execv(command[0], command)
    with subprocess.Popen(command) as process:
        while process.poll() is None:
            with contextlib.suppress(KeyboardInterrupt):  # the command has had it too, and ends as it sees fit
                process.wait()
    return process.returncode


def main(arguments: Sequence[str]) -> int:
    """Sets up .venv where needed and runs a job in it; returns the job's exit status."""
    if sys.version_info < (3, 11):
        found = ".".join(map(str, sys.version_info[:3]))
        sys.exit(f"do.py: this is Python {found}; the course needs 3.11 or later. Try: python3.11 do.py")
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(__doc__)
        return 0
    job, *rest = arguments
    if job not in JOBS:
        sys.exit(f"do.py: there is no job {job!r}; the jobs are {', '.join(JOBS)}")
    set_up()
    if job == "test":
        return test(rest)
    return become([str(PYTHON), "-P", "-m", "minitok", job, *rest])  # -P: no file of this folder hides a module


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
