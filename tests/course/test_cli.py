"""The commands: help, exit statuses, problems told in one line, and what each passes on."""

import json
import pathlib
import subprocess
import sys
from typing import Any

import pytest
from PIL import Image

import minitok
from minitok import cli, files, house, papers, stages
from minitok.course import bench, building, catalogue, kernels, lab
from minitok.course import tour as tours
from minitok.data import clothing

COMMANDS = ("tour", "papers", "train", "bench", "data", "notebooks", "docs", "lab")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main([command, "--help"])
    assert stop.value.code == 0
    assert f"Example: minitok {command}" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    "arguments", [[], ["dance"], ["papers", "--colour"], ["tour"], ["train", "vit", "--steps", "x"]]
)
def test_wrong_usage_is_status_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main(arguments)
    assert stop.value.code == 2
    assert "usage: minitok" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["tour", "no.png"], "there is no picture"),
        (["papers", "fqs"], "did you mean"),
        (["papers", "--status", "done"], "no status 'done': there are working and planned"),
        (["papers", "vq", "--chapter", "image"], "vq is of the chapter quantize"),
        (["papers", "fqgan", "--status", "working"], "fqgan is of the chapter quantize, and planned"),
        (["train", "nothing"], "no house model is called 'nothing'"),
        (["bench", "nothing"], "no benchmark is called 'nothing'"),
        (["notebooks", "nothing.py"], "nothing.py leads to no source"),
    ],
)
def test_problems_are_one_line_and_status_2(
    arguments: list[str],
    told: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: pathlib.Path,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("minitok: ")
    assert told in error
    assert error.count("\n") == 1


def test_papers_prints_tables_cards_and_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["papers", "--chapter", "quantize", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert {row["chapter"] for row in rows} == {"quantize"}
    assert cli.main(["papers", "--chapter", "quantize"]) == 0
    assert capsys.readouterr().out.count("2309.15505") == 1
    assert cli.main(["papers", "fsq"]) == 0
    assert "Finite Scalar Quantization" in capsys.readouterr().out


def test_a_card_may_be_asked_for_with_its_own_chapter(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["papers", "fsq", "--chapter", "quantize"]) == 0
    assert "Finite Scalar Quantization" in capsys.readouterr().out


def test_stale_records_are_listed_or_none(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(catalogue, "stale", lambda: [papers.Stale("league", "reduce", "changed since: minitok/nn.py")])
    assert cli.main(["papers", "--stale"]) == 0
    told = capsys.readouterr().out
    assert told.startswith("league  reduce  changed since: minitok/nn.py\n")
    assert "No longer as measured: 1." in told
    monkeypatch.setattr(catalogue, "stale", list)
    cli.main(["papers", "--stale"])
    assert capsys.readouterr().out == "everything is as it was measured\n"


def test_help_promises_no_numbers_and_the_version_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    for option in ("--help", "--version"):
        with pytest.raises(SystemExit) as stop:
            cli.main([option])
        assert stop.value.code == 0
    told = capsys.readouterr().out
    assert told.endswith(f"minitok {minitok.__version__}\n")
    assert "199" not in told


@pytest.mark.parametrize("asked", [["papers"], ["papers", "vq"], ["papers", "--stale"], ["path", "tome"]])
def test_who_asks_of_papers_waits_for_no_torch(asked: list[str]) -> None:
    program = f"import sys\nfrom minitok import cli\ncli.main({asked})\nprint('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.endswith("False\n"), done.stderr


@pytest.mark.parametrize("rows", ["papers", "papers --chapter quantize"])
def test_a_reader_that_has_seen_enough_is_no_problem(rows: str) -> None:
    command = [sys.executable, "-m", "minitok", *rows.split()]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as job:
        assert job.stdout is not None
        assert job.stderr is not None
        job.stdout.close()
        assert job.stderr.read() == ""
    assert job.returncode == 141


def test_train_passes_its_options_on(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    calls: list[Any] = []
    monkeypatch.setattr(house, "train", lambda *given, **named: calls.append((given, named)))
    cli.main(["train", "vit"])
    cli.main(
        [
            "train",
            "vit",
            "--folder",
            "x",
            "--steps",
            "3",
            "--device",
            "cpu",
            "--devices",
            "2",
            "--seed",
            "7",
            "--ship",
        ]
    )
    plain, full = house.Options(), house.Options(steps=3, seed=7, device="cpu", devices=2)
    assert calls == [
        (("vit", pathlib.Path("runs", "vit").absolute(), plain), {"ship": False}),
        (("vit", pathlib.Path("x").absolute(), full), {"ship": True}),
    ]


def test_tour_names_the_page(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(tours, "tour", lambda picture, out: pathlib.Path("/made") / f"{picture}-{out}")
    assert cli.main(["tour", "cat.png", "--out", "cat.html"]) == 0
    assert "cat.png-cat.html" in capsys.readouterr().out


def test_notebooks_that_fail_are_status_1(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[object, ...]] = []
    monkeypatch.setattr(building, "build_all", lambda *given: asked.append(given) or len(given[0]))
    monkeypatch.setattr(catalogue, "update_pages", lambda: asked.append(()))
    assert cli.main(["notebooks"]) == 0
    assert cli.main(["notebooks", "a.py", "b.py", "--jobs", "2", "--fresh-kernels", "--affected"]) == 1
    assert asked == [([], 1, False, False), (), (["a.py", "b.py"], 2, True, True)]


def test_data_lists_or_fetches(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from minitok.data import wheels

    assert cli.main(["data", "--list"]) == 0
    assert capsys.readouterr().out.count(" MB ") == len(wheels.WHEELS)
    fetched: list[bool] = []
    monkeypatch.setattr(wheels, "prefetch", lambda: fetched.append(True))
    assert cli.main(["data"]) == 0
    assert fetched == [True]

    def offline() -> None:
        raise ConnectionError("no network")

    monkeypatch.setattr(wheels, "prefetch", offline)
    assert cli.main(["data"]) == 2
    assert capsys.readouterr().err == "minitok: no network\n"


def test_lab_passes_arguments_on(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []
    monkeypatch.setattr(lab, "start", calls.append)
    assert cli.main(["lab", "--no-browser", "--port", "1"]) == 0
    assert calls == [["--no-browser", "--port", "1"]]


def test_bench_prints_a_table_and_writes_figures(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "bench.json"
    assert cli.main(["bench", "digits", "--device", "cpu", "--json", str(out)]) == 0
    assert "images/s" in capsys.readouterr().out
    figures = json.loads(out.read_text())
    assert [row["name"] for row in figures["rows"]] == ["digits"]
    assert figures["rows"][0]["per_second"] > 0


def test_every_house_model_has_a_benchmark_that_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[object] = []
    monkeypatch.setattr(bench, "median_seconds", lambda call, *_: ran.append(call()) or 0.5)
    assert set(house.NAMES) <= set(bench.CASES)
    figures = bench.measure(device="cpu")
    assert [row["name"] for row in figures["rows"]] == list(bench.CASES)
    assert len(ran) == len(bench.CASES)
    assert "torch" in bench.table(figures)


@pytest.mark.parametrize(
    "arguments",
    [
        ["tour", "cat.png", "--out"],
        ["bench", "--json"],
        ["bench", "--kernels", "--json"],
        ["train", "digits", "--folder"],
        ["league", "reduce", "--folder"],
    ],
    ids=" ".join,
)
@pytest.mark.parametrize("target", ["folder", "file/x.html"])
def test_what_cannot_be_written_is_told_before_the_work(
    arguments: list[str],
    target: str,
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def work(*_: object, **__: object) -> None:
        raise AssertionError("the work has begun")

    for module, name in ((tours.execution, "run"), (bench, "measure"), (kernels, "measure"), (house, "train")):
        monkeypatch.setattr(module, name, work)
    monkeypatch.setattr(stages, "compute", work)
    monkeypatch.setattr(clothing, "at_hand", lambda: True)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    (tmp_path / "folder" / "card.json").mkdir(parents=True)
    (tmp_path / "folder" / "facts.json").mkdir()
    Image.new("RGB", (64, 64)).save(tmp_path / "cat.png")
    assert cli.main([*arguments, target]) == 2
    told = "is a folder" if target == "folder" else "cannot be written: Not a directory"
    assert told in capsys.readouterr().err


def test_a_folder_for_a_run_begins_at_home(monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> None:
    folders: list[pathlib.Path] = []
    monkeypatch.setattr(house, "train", lambda name, folder, options, ship: folders.append(folder))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    assert cli.main(["train", "digits", "--folder", "~/run"]) == 0
    assert folders == [tmp_path / "run"]


LEAGUES = [name for name in stages.NAMES if (files.PACKAGE / "stages" / f"{name}.py").exists()]


@pytest.mark.parametrize("name", LEAGUES)
def test_a_league_without_its_photographs_says_so_before_it_starts(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: pathlib.Path
) -> None:
    begun: list[str] = []

    def begin(name: str, *_: object) -> None:
        begun.append(name)
        raise ValueError("begun")

    monkeypatch.setattr(stages, "compute", begin)
    monkeypatch.setattr(clothing, "at_hand", lambda: False)
    assert cli.main(["league", name, "--folder", str(tmp_path)]) == 2
    reads = "clothing" in vars(stages.league(name))
    assert begun == ([] if reads else [name])
    assert ("run `python do.py data --clothing` first" in capsys.readouterr().err) == reads
