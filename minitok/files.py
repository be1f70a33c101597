"""Where files are and how they are written: the shipped folder, the cache, hashes, writes whole or not at all."""

import contextlib
import errno
import hashlib
import os
import pathlib
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

PACKAGE = pathlib.Path(__file__).resolve().parent
ROOT = PACKAGE.parent
FULL = {errno.ENOSPC, errno.EDQUOT}


def in_checkout() -> bool:
    """Whether minitok runs from a clone of the project (rather than from an installed wheel)."""
    return (ROOT / "data" / "papers.toml").exists()


def shipped(*parts: str) -> pathlib.Path:
    """The path of a file that the project ships: `shipped("checkpoints", "vit.safetensors")`."""
    folder = ROOT / "data" if in_checkout() else PACKAGE / "_shipped"
    return folder.joinpath(*parts)


def expanded(path: str | os.PathLike[str]) -> pathlib.Path:
    """The path with `~` at its start as the home folder, as a shell reads it; as it is where there is no such home."""
    return pathlib.Path(os.path.expanduser(path))


def named(variable: str) -> pathlib.Path | None:
    """The folder that an environment variable names, expanded; None where it is not set or empty."""
    given = os.environ.get(variable)
    return expanded(given) if given else None


def cache_folder() -> pathlib.Path:
    """The folder for downloaded files: `MINITOK_CACHE`, else the system's cache folder. It may not be there yet.

    Raises `PermissionError`, naming the way out, when there is no home folder that it could lie in.
    """
    import pooch

    folder = named("MINITOK_CACHE") or expanded(pooch.os_cache("minitok"))
    if folder.parts[:1] and folder.parts[0].startswith("~"):
        raise PermissionError(f"{folder} names no home folder of this machine: set MINITOK_CACHE to a folder")
    return folder


@contextmanager
def filling_cache() -> Iterator[pathlib.Path]:
    """Gives the cache folder, made where it is not there, to a download; what is there already is read without it.

    Raises `PermissionError`, naming the folder and the way out, when it cannot be written or the disk is full.
    """
    folder = cache_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise unwritable(folder, error.strerror) from error
    try:
        yield folder
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise unwritable(folder, error.strerror) from error


def unwritable(folder: pathlib.Path, reason: str | None) -> PermissionError:
    """What to tell the user where the cache cannot be written."""
    return PermissionError(f"the cache folder {folder} cannot be written ({reason}): set MINITOK_CACHE to another")


def check_target(path: str | os.PathLike[str]) -> pathlib.Path:
    """The absolute path, `~` expanded, of a file that is to be written: asked before the work, which might be long.

    Raises `ValueError` when it is a folder or a device, or when nothing can be written there; nothing is left behind.
    """
    target = expanded(path).absolute()
    try:
        if target.is_dir():
            raise ValueError(f"{target} is a folder: name a file in it")
        if target.exists() and not target.is_file():
            raise ValueError(f"{target} is no file that can be replaced by another")
        with tempfile.TemporaryFile(dir=next(folder for folder in target.parents if folder.exists())):
            pass
    except OSError as error:
        raise ValueError(f"{target} cannot be written: {error.strerror or error}") from error
    return target


@contextmanager
def writing(path: str | os.PathLike[str]) -> Iterator[pathlib.Path]:
    """Gives a temporary path beside `path`; moves it there at the end, or removes it if the block raises."""
    target = pathlib.Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    os.close(handle)
    temporary = pathlib.Path(name)
    try:
        yield temporary
        with contextlib.suppress(OSError):  # a network mount may refuse it
            temporary.chmod(0o644)  # mkstemp makes private files; what we write is meant to be read
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def write(path: str | os.PathLike[str], content: str | bytes) -> None:
    """Writes `content` to `path`, whole or not at all. Text is UTF-8 with Unix line ends on every system."""
    with writing(path) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)


def sha256(path: str | os.PathLike[str]) -> str:
    """The SHA-256 of a file's bytes as 64 hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_sha256(path: str | os.PathLike[str], expected: str, remedy: str = "fetch or make it again") -> None:
    """Raises `ValueError`, with what helps, when the file's SHA-256 is not `expected`."""
    found = sha256(path)
    if found != expected:
        raise ValueError(f"{path} has SHA-256 {found}, expected {expected}: it is damaged or another version; {remedy}")
