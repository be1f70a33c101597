"""One file for all that one does with the course. It needs only Python 3.11 or later, on any system.

    python do.py lab                 open the course in JupyterLab, at the tour
    python do.py tour PICTURE        the same tour on a picture of yours, as one HTML page
    python do.py test [STEP ...]     all that CI checks, or only: lint types spelling unit notebooks
    python do.py notebooks [PATH]    make notebooks from their sources
    python do.py data                bring all data that the notebooks read, for work without a network
    python do.py train NAME          train a house model
    python do.py league NAME         compute the league table of a chapter
    python do.py bench               time the models on this machine

The first call makes the folder .venv (a minute or so). More arguments go to the job, as in
`python do.py tour --help`; those of `test` go to pytest, as in `python do.py test unit -k fsq`.
On Linux without a GPU, UV_TORCH_BACKEND=cpu in the environment saves gigabytes of that first download.
"""

from __future__ import annotations

import hashlib
import os
import pathlib
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
JOBS = ("lab", "tour", "test", "notebooks", "data", "train", "league", "bench")
NBVAL = ("--nbval-lax", "--nbval-current-env", "--nbval-cell-timeout=300", "-n", "2", "--dist", "loadfile")
STEPS = {
    "lint": [["ruff", "check", "."], ["ruff", "format", "--check", "."]],
    "types": [["basedpyright", "--pythonpath", str(PYTHON)]],
    "spelling": [["codespell_lib"]],
    "unit": [["pytest", "-q", "-n", "2"]],
    "notebooks": [["pytest", "-q", *NBVAL, "notebooks"]],
}
HELP = """
do.py: the packages could not be installed; what pip says of it stands above.
  - Is this machine on the network? Behind a proxy, set HTTPS_PROXY.
  - Is the disk full? The packages take 2 GB, and 8 GB with CUDA.
Nothing half-made is kept in use: run the same command again when that is mended."""


def wanted() -> str:
    """The hash of the two files that say what belongs into .venv."""
    content = b"".join((ROOT / name).read_bytes() for name in ("pyproject.toml", "constraints.txt"))
    return hashlib.sha256(content.replace(b"\r\n", b"\n")).hexdigest()


def is_ready() -> bool:
    """Whether .venv was finished, is up to date, and its interpreter is still there."""
    return PYTHON.exists() and READY.exists() and READY.read_text() == wanted()


def set_up() -> None:
    """Makes .venv, or brings it up to date. A folder that was not finished is made anew."""
    if is_ready():
        return
    print("do.py: setting up .venv, once", flush=True)
    if not (PYTHON.exists() and READY.exists()):
        try:
            venv.create(ENV, clear=True, with_pip=True)
        except (OSError, subprocess.CalledProcessError) as error:
            sys.exit(f"do.py: {ENV} cannot be made ({error}). On Debian and Ubuntu: apt install python3-venv")
    READY.unlink(missing_ok=True)
    if not (install_by_uv() or install_by_pip()):
        sys.exit(HELP)
    READY.write_text(wanted())


def module(*command: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """Runs `python -m ...` with the interpreter of .venv."""
    return subprocess.run([str(PYTHON), "-m", *command], cwd=ROOT, text=True, **options)


def install_by_uv() -> bool:
    """Installs everything by uv, faster than pip; false where there is no uv, or it gives up."""
    if module("pip", "install", "-q", "--retries", "1", *PINS, "uv", capture_output=True).returncode:
        return False
    links = os.environ.get("UV_FIND_LINKS") or pip_setting("find-links")
    environment = {**os.environ, **({"UV_FIND_LINKS": ",".join(links.split())} if links else {})}
    options = ("--python", str(PYTHON), *PINS, "-e", ".[all]")
    return module("uv", "pip", "install", *options, env=environment).returncode == 0


def install_by_pip() -> bool:
    """Installs everything by pip."""
    return module("pip", "install", "--retries", "1", *PINS, "-e", ".[all]").returncode == 0


def pip_setting(name: str) -> str:
    """What pip is set to on this machine, by the environment or by its files; uv reads neither."""
    asked = module("pip", "config", "get", f"global.{name}", capture_output=True)
    return os.environ.get(f"PIP_{name.upper().replace('-', '_')}") or asked.stdout.strip()


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
    return subprocess.call([str(PYTHON), "-m", "minitok", job, *rest])


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
