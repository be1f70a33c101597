"""A cache of the test's own, a tiny wheel that the real pip brings from a folder, and published wheels."""

import hashlib
import zipfile

import pytest

from minitok.data import wheels


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache folder."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("MINITOK_CACHE", str(folder))
    return folder


@pytest.fixture
def tiny(tmp_path, monkeypatch, cache):
    """A wheel `tiny` of two files, in WHEELS and in the only folder where pip looks; gives its path there."""
    folder = tmp_path / "index"
    folder.mkdir()
    path = folder / "tiny_set-1.0-py3-none-any.whl"
    info = "tiny_set-1.0.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("tiny_set/data/a.txt", "alpha")
        archive.writestr("tiny_set/data/b.bin", b"\x00\xff")
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: tiny-set\nVersion: 1.0\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    entry = wheels.Wheel("tiny-set==1.0", digest, "py3-none-any", 0.1, "CC0")
    monkeypatch.setattr(wheels, "WHEELS", {"tiny": entry})
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return path


@pytest.fixture
def published():
    """A function that brings a published wheel, or skips the test where it cannot be had."""

    def bring(name):
        try:
            return wheels.fetch(name)
        except ConnectionError as error:
            pytest.skip(f"needs the wheel {name}: {error}")

    return bring
