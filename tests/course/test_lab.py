"""JupyterLab on copies: what the reader has changed is never lost, and the shipped notebooks stay as they are."""

import json
import os
import pathlib
import re
import subprocess
import sys
from typing import Any

import pytest

from minitok import files
from minitok.course import lab

NAME = "01_quantize/01_vq.ipynb"


def notebook(*sources: str, outputs: str = "") -> str:
    cells = [{"cell_type": "code", "source": [source], "outputs": [outputs], "metadata": {}} for source in sources]
    return json.dumps({"cells": cells, "metadata": {}})


class Course:
    """A course of one lesson, shipped in versions, and the reader's copy of it."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.shipped, self.own = folder / "notebooks", folder / "my"
        self.copy = self.own / NAME
        self.new = self.copy.with_suffix(".new.ipynb")

    def ship(self, content: str) -> list[str]:
        files.write(self.shipped / NAME, content)
        told = list(lab.copies(self.shipped, self.own))
        assert (self.shipped / NAME).read_text() == content
        return told


@pytest.fixture
def course(tmp_path: pathlib.Path) -> Course:
    return Course(tmp_path)


def test_copies_are_made_and_those_that_were_only_run_are_brought_up_to_date(course: Course) -> None:
    files.write(course.shipped / "src" / "01_quantize" / "01_vq.py", "no notebook")
    assert course.ship(notebook("a")) == []
    assert course.copy.read_text() == notebook("a")
    assert sorted(path.name for path in course.own.iterdir()) == [".shipped.json", "01_quantize"]
    course.copy.write_text(notebook("a", outputs="a run of mine"))
    assert course.ship(notebook("a")) == []
    assert "a run of mine" in course.copy.read_text()
    assert course.ship(notebook("b")) == []
    assert course.copy.read_text() == notebook("b")
    course.copy.unlink()
    assert course.ship(notebook("b")) == []
    assert course.copy.read_text() == notebook("b")


def test_a_changed_copy_stays_and_the_new_version_lies_beside_it(course: Course) -> None:
    course.ship(notebook("a"))
    course.copy.write_text(notebook("a", "mine"))
    assert course.ship(notebook("a", outputs="run again")) == []
    assert not course.new.exists()
    (told,) = course.ship(notebook("b"))
    assert told.startswith(f"my/{NAME} is yours and stays")
    assert told.endswith("01_vq.new.ipynb")
    assert (course.copy.read_text(), course.new.read_text()) == (notebook("a", "mine"), notebook("b"))
    assert course.ship(notebook("b")) == []  # it is said once
    (told,) = course.ship(notebook("c"))
    assert (course.copy.read_text(), course.new.read_text()) == (notebook("a", "mine"), notebook("c"))
    course.new.write_text(notebook("c", "mine too"))
    (told,) = course.ship(notebook("d"))
    assert told.endswith("01_vq.new2.ipynb")
    assert course.new.read_text() == notebook("c", "mine too")
    course.copy.with_suffix(".new2.ipynb").replace(course.copy)  # the reader takes the new one
    assert course.ship(notebook("e")) == []
    assert course.copy.read_text() == notebook("e")


@pytest.mark.parametrize("broken", ["", "{", '{"cells": 3}', "[]"])
def test_nothing_is_lost_without_the_record_or_with_a_broken_copy(broken: str, course: Course) -> None:
    course.ship(notebook("a"))
    (course.own / lab.RECORD).unlink()
    course.copy.write_text(broken)
    assert len(course.ship(notebook("a"))) == 1
    assert (course.copy.read_text(), course.new.read_text()) == (broken, notebook("a"))
    (course.own / lab.RECORD).unlink()
    assert len(course.ship(notebook("b"))) == 1
    assert course.new.read_text() == notebook("a")
    assert course.copy.with_suffix(".new2.ipynb").read_text() == notebook("b")


@pytest.mark.parametrize("record", [b"", b"{", b"[]", b"3", b'{"a": 3}', b'{"a": ["b", "c", "d"]}', b"\xff"])
def test_a_damaged_record_is_none_and_nothing_is_lost(record: bytes, course: Course) -> None:
    course.ship(notebook("a"))
    course.copy.write_text(notebook("mine"))
    (course.own / lab.RECORD).write_bytes(record)
    assert len(course.ship(notebook("b"))) == 1
    assert (course.copy.read_text(), course.new.read_text()) == (notebook("mine"), notebook("b"))
    assert course.ship(notebook("b")) == []  # the record is whole again


def test_every_link_of_a_lesson_leads_somewhere_from_the_copy_too() -> None:
    lost = []
    for path in sorted(lab.SHIPPED.glob("[0-9]*/*.ipynb")):
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        text = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
        for link in re.findall(r"\]\((?!https?:|#)([^)#\s]+)", text):
            there = path.parent / link
            copied = there.resolve().is_relative_to(lab.SHIPPED) and there.suffix == ".ipynb"
            outside = os.path.normpath(lab.OWN / path.parent.name / link)
            if not (there.exists() and (copied or os.path.exists(outside))):
                lost.append(f"{path.parent.name}/{path.name}: {link}")
    assert lost == []


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """What JupyterLab is started with, rather than started."""
    from jupyterlab.labapp import LabApp

    calls: list[list[str]] = []
    monkeypatch.setattr(LabApp, "launch_instance", lambda argv: calls.append(argv))
    monkeypatch.setattr(lab, "copies", lambda: iter(["one told"]))
    return calls


def test_lab_serves_the_clone_and_opens_the_copy_of_the_tour(
    started: list[list[str]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    lab.start(["--no-browser", "--port", "1"])
    assert os.environ["OMP_NUM_THREADS"] == "3"
    monkeypatch.delenv("OMP_NUM_THREADS")
    lab.start([])
    assert os.environ["OMP_NUM_THREADS"] == "1"
    ours = [f"--ServerApp.root_dir={files.ROOT}", "--ServerApp.answer_yes=True"]
    tour = "--LabApp.default_url=/lab/tree/my/00_start/00_tour.ipynb"
    assert started == [[*ours, tour, "--no-browser", "--port", "1"], [*ours, tour]]
    assert capsys.readouterr().out.startswith("one told\nThe notebooks in my/ are yours")


def test_where_no_copies_can_be_made_the_shipped_tour_opens(
    started: list[list[str]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse() -> Any:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(lab, "copies", refuse)
    lab.start([])
    assert started[0][-1] == "--LabApp.default_url=/lab/tree/notebooks/00_start/00_tour.ipynb"
    assert "cannot be written (Permission denied)" in capsys.readouterr().out


def test_without_notebooks_it_says_where_they_are(monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> None:
    monkeypatch.setattr(lab, "SHIPPED", tmp_path / "nothing")
    with pytest.raises(FileNotFoundError, match="in a clone of the project"):
        lab.start([])


@pytest.mark.parametrize(
    ("program", "given", "expected"),
    [
        ("import minitok", None, "PASSIVE"),
        ("import minitok", "ACTIVE", "ACTIVE"),
        ("import sys; sys.modules['torch'] = sys; import minitok", None, "None"),
    ],
)
def test_waiting_threads_sleep_unless_the_user_says_otherwise(program: str, given: str | None, expected: str) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    environment |= {"PYTHONPATH": str(files.ROOT)} | ({"OMP_WAIT_POLICY": given} if given else {})
    command = [sys.executable, "-c", f"{program}; import os; print(os.environ.get('OMP_WAIT_POLICY'))"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == expected
