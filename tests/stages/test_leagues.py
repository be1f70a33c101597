import json
import time

import pytest
import torch

from minitok import cli, files, house, stages
from minitok.course import records
from minitok.stages._common import cpu_seconds, kept


class Small:
    """A league of two rows."""

    TITLE, HOW, SCORES = "two methods", "by hand", {"PSNR": "dB", "use": "%"}

    @staticmethod
    def measure(folder, options):
        work = kept(folder, f"a piece / steps={options.steps}", lambda: {"PSNR": 20.0, "use": 50.0})
        return [{"data": "digits", "method": "a", **work}, {"data": "clothes", "method": "b", "PSNR": 30.0}]


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(stages, "league", lambda name: Small)


@pytest.mark.usefixtures("small")
def test_a_table_says_how_it_was_made_and_is_written_whole(tmp_path):
    facts = stages.compute("quantize", tmp_path, house.Options(steps=3))
    assert json.loads((tmp_path / "quantize.json").read_text()) == facts
    assert facts["how"] == "by hand"
    assert facts["made"]["by"] == "minitok league quantize"
    assert [row["method"] for row in facts["rows"]] == ["a", "b"]


@pytest.mark.usefixtures("small")
def test_a_shipped_table_lies_among_the_projects(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "ROOT", tmp_path)
    monkeypatch.setattr(files, "in_checkout", lambda: True)
    facts = stages.compute("quantize", tmp_path / "run", ship=True)
    assert json.loads((tmp_path / "data" / "leagues" / "quantize.json").read_text()) == facts


def test_a_finished_piece_is_not_done_again(tmp_path):
    done = []

    def job():
        done.append(1)
        return len(done)

    assert [kept(tmp_path, "a/b lr=0.1", job), kept(tmp_path, "a/b lr=0.1", job)] == [1, 1]
    assert kept(tmp_path, "a/b lr=0.2", job) == 2


def test_a_piece_that_fails_is_not_kept(tmp_path):
    with pytest.raises(ZeroDivisionError):
        kept(tmp_path, "a", lambda: 1 / 0)
    assert kept(tmp_path, "a", lambda: 7) == 7


def test_a_table_shows_the_rows_asked_for():
    rows = [
        {"data": "digits", "method": "a", "PSNR": 20.0, "use": 50.0},
        {"data": "clothes", "method": "b", "PSNR": 3.0},
    ]
    facts = {"scores": Small.SCORES, "rows": rows}
    assert stages.table(facts, data="digits").splitlines()[0].split() == ["method", "PSNR", "(dB)", "use", "(%)"]
    assert stages.table(facts, data="clothes").splitlines()[1].split() == ["b", "3.00", "-"]
    assert len(stages.table(facts).splitlines()) == 3


def test_an_unknown_league_is_refused(capsys):
    with pytest.raises(ValueError, match="no league is called 'quantise'"):
        stages.league("quantise")
    assert cli.main(["league", "quantise"]) == 2
    assert "no league is called" in capsys.readouterr().err


SHIPPED = sorted(path.stem for path in files.shipped("leagues").glob("*.json"))


STALE = records.stale()


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_league_is_that_of_its_module(name):
    facts, module = stages.load(name), stages.league(name)
    assert facts["title"] == module.TITLE
    assert facts["scores"].items() <= module.SCORES.items()
    # A league that was measured before its module changed keeps the account of how it was made then.
    assert facts["how"] == module.HOW or name in {found.name for found in STALE if found.kind == "league"}
    assert facts["rows"]
    assert {"by", "device", "torch"} <= facts["made"].keys()
    assert all(set(row) & set(module.SCORES) for row in facts["rows"])


def test_cpu_time_is_the_least_of_three_runs_in_one_thread(monkeypatch):
    runs, clock, threads = [], iter([0.0, 5.0, 10.0, 12.0, 20.0, 24.0]), torch.get_num_threads()
    monkeypatch.setattr(time, "process_time", lambda: next(clock))
    assert cpu_seconds(lambda run: runs.append((run, torch.get_num_threads()))) == 2.0
    assert runs == [(0, 1), (1, 1), (2, 1)]
    assert torch.get_num_threads() == threads
