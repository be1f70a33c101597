"""Made-up projects for the tests of the registry: the real facts, with no lesson or one."""

import shutil

import pytest

from minitok import files, papers
from minitok.course import forks


@pytest.fixture(scope="module")
def cold():
    """Kernels of this file's tests are forked from a process that has imported what every kernel needs, and no more."""
    with pytest.MonkeyPatch.context() as patch:
        server = forks.Server(warm=False)
        patch.setattr(forks, "SERVER", server)
        yield server
        server.close()


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project with the real facts and nothing else."""
    (tmp_path / "data").mkdir()
    shutil.copy(files.shipped("papers.toml"), tmp_path / "data")
    monkeypatch.setattr(files, "ROOT", tmp_path)
    monkeypatch.setattr(files, "PACKAGE", tmp_path / "minitok")
    for variable in ("MINITOK_RECORD", "MINITOK_JUDGE"):
        monkeypatch.delenv(variable, raising=False)
    return tmp_path


@pytest.fixture
def vq_lesson(project, monkeypatch):
    """The places of a complete lesson, `vq`, in that project."""
    places = papers.places("vq")
    for place in ("module", "notebook", "source", "test"):
        files.write(places[place], f"# the {place}\n")
    monkeypatch.setenv("MINITOK_RECORD", "1")
    measures = [papers.better("PSNR", 27.24, than=24.1, margin=0.5, unit="dB", paper="28 dB, table 1")]
    papers.verdict("vq", "codes keep the image", measures, against="scalar rounding", data="photographs")
    monkeypatch.delenv("MINITOK_RECORD")
    return places
