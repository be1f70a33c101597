"""Making notebooks from their sources, and the rules that a finished one has to keep."""

import json
import pathlib
from collections.abc import Callable

import nbformat
import pytest

from minitok.course import building, lessons
from minitok.course.rules import excesses, problems

SOURCE = """# %% [markdown]
# # Doubling
# Two words

# %%
import os
import sys
import tqdm

for step in range(3):
    print(f"\\rstep {step}", end="")

# %% [markdown]
# More words

# %% tags=["interactive"]
from IPython.display import display
from ipywidgets import IntSlider

display(IntSlider())

# %%
assert os.environ["OMP_NUM_THREADS"] == "1"
print(os.environ["MINITOK_RECORD"], os.path.basename(os.getcwd()), sys.executable == PYTHON)
"""


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory, cold: object) -> pathlib.Path:
    import sys

    source = tmp_path_factory.mktemp("course") / "src" / "00_start" / "01_doubling.py"
    source.parent.mkdir(parents=True)
    source.write_text(SOURCE.replace("PYTHON", repr(sys.executable)), encoding="utf-8")
    (source.parents[2] / "00_start").mkdir()
    building.build(source)
    return lessons.notebook_of(source)


@pytest.fixture
def copy(built: pathlib.Path, tmp_path: pathlib.Path) -> pathlib.Path:
    for path in (built, lessons.source_of(built)):
        target = tmp_path / path.relative_to(built.parents[1])
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
    return tmp_path / "00_start" / built.name


def code(book: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    return [cell for cell in book.cells if cell.cell_type == "code"]


def edited(path: pathlib.Path, edit: Callable[[nbformat.NotebookNode], object]) -> pathlib.Path:
    notebook = nbformat.read(path, 4)
    edit(notebook)
    nbformat.write(notebook, path)
    return path


def test_a_built_notebook_is_good_and_ran_as_promised(built: pathlib.Path) -> None:
    notebook = nbformat.read(built, 4)
    facts = notebook.metadata.minitok
    assert problems(built) == []
    assert notebook.cells[-1].outputs[0].text == "1 00_start True\n"
    assert notebook.cells[2].outputs[0].text == "step 2"
    assert notebook.cells[1] == lessons.header(2, facts.cpu) | {"id": notebook.cells[1].id}
    assert set(facts) == {"source", "depends", "minutes", "cpu", "memory"}
    assert facts.minutes == 2
    assert 0 < facts.cpu < 60
    assert facts.memory > 50


def test_nothing_of_the_run_is_kept_that_differs_the_next_time(built: pathlib.Path) -> None:
    text = built.read_text(encoding="utf-8")
    building.build(lessons.source_of(built))
    assert built.read_text(encoding="utf-8") == text
    assert "widget-view" not in text
    assert set(json.loads(text)["metadata"]) == {"kernelspec", "language_info", "minitok"}


def test_a_failing_cell_is_named_and_the_old_notebook_stays(
    copy: pathlib.Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    source, before = lessons.source_of(copy), copy.read_bytes()
    source.write_text("# %% [markdown]\n# # Bad\n\n# %%\n1 + 1\n\n# %%\n1 / 0\n")
    monkeypatch.setattr(lessons, "SOURCES", source.parents[1])
    assert building.build_all() == 1
    told = capsys.readouterr().err
    assert "cell 3" in told
    assert "ZeroDivisionError: division by zero" in told
    assert copy.read_bytes() == before


def test_several_are_made_at_once_those_that_changed_first_and_then_the_longest(
    copy: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source = lessons.source_of(copy)
    monkeypatch.setattr(lessons, "SOURCES", source.parents[1])
    for number, cpu, text in ((2, 3.0, ""), (3, 9.0, ""), (4, 1.0, "changed")):
        other = source.with_name(f"{number:02}_other.py")
        other.write_text(source.read_text() + text)
        book = nbformat.read(copy, 4)
        book.metadata.minitok.update(cpu=cpu, source=lessons.source_hash(source.read_text()))
        nbformat.write(book, lessons.notebook_of(other))
    made: list[tuple[str, bool]] = []
    cost = building.execution.Cost(1.0, 2.0, 3.0)
    monkeypatch.setattr(building, "build", lambda path, fresh, quiet: made.append((path.stem, quiet)) or cost)
    assert building.build_all([source.parent], jobs=1) == 0
    assert made == [("04_other", False), ("03_other", False), ("02_other", False), ("01_doubling", False)]
    made.clear()
    assert building.build_all([source.parent], jobs=3) == 0
    assert sorted(made) == sorted((path.stem, True) for path in lessons.sources())
    assert "   1.0 +  3.0 CPU s      2 MB" in capsys.readouterr().out


def test_an_exercise_that_is_not_sound_fails_its_notebook(
    copy: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source = lessons.source_of(copy)
    source.write_text("# %% [markdown]\n# # Bad\n\n# %%\ndef f():\n    pass\n\n\ncheck_1 = str\ncheck_1(f)\n")
    monkeypatch.setattr(lessons, "SOURCES", source.parents[1])
    assert building.build_all() == 1
    assert "its exercises have no file of solutions" in capsys.readouterr().err


def test_a_source_without_a_title_is_refused(tmp_path: pathlib.Path) -> None:
    source = tmp_path / "a.py"
    source.write_text("# %%\n1 + 1\n")
    with pytest.raises(ValueError, match="starts with no markdown cell"):
        lessons.read_source(source)


def test_only_changed_sources_are_built_when_none_are_named(
    copy: pathlib.Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    source = lessons.source_of(copy)
    monkeypatch.setattr(lessons, "SOURCES", source.parents[1])
    assert building.build_all() == 0
    assert "up to date" in capsys.readouterr().out
    source.write_text(source.read_text() + "\n# %%\n2 + 2\n")
    assert not lessons.is_fresh(source)


def test_what_a_change_reaches_is_built_on_request(
    copy: pathlib.Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    source, made = lessons.source_of(copy), []
    monkeypatch.setattr(lessons, "SOURCES", source.parents[1])
    monkeypatch.setattr(building, "build", lambda path, fresh, quiet: made.append(path) or 1 / 0)
    assert building.build_all([source], affected=True) == 0
    assert "up to date" in capsys.readouterr().out
    monkeypatch.setattr(lessons.dependencies, "digest", lambda path: "another")
    assert building.build_all() == 0
    with pytest.raises(ZeroDivisionError):
        building.build_all(affected=True)
    assert made == [source]


def test_paths_may_name_sources_notebooks_and_folders(copy: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = lessons.source_of(copy)
    monkeypatch.setattr(lessons, "SOURCES", source.parents[1])
    monkeypatch.setattr(lessons, "NOTEBOOKS", copy.parents[1])
    (source.parents[1] / "solutions" / "00_start").mkdir(parents=True)
    (source.parents[1] / "solutions" / "00_start" / "01_doubling.py").touch()
    for paths in ([], [source], [copy], [source.parent], [copy.parent], [copy.parents[1]]):
        assert lessons.sources(paths) == [source]
    with pytest.raises(FileNotFoundError, match="leads to no source"):
        lessons.sources([copy.parent / "nothing.ipynb"])


@pytest.mark.parametrize(
    ("edit", "problem"),
    [
        (lambda book: book.cells[2].update(source="1"), "differs from its source"),
        (lambda book: book.cells[2].metadata.update(tags=["x"]), "differs from its source"),
        (lambda book: book.cells.pop(1), "no generated header"),
        (lambda book: book.metadata.minitok.update(source="0"), "another version of its source"),
        (lambda book: book.cells[2].update(execution_count=7), "not run top to bottom"),
        (lambda book: book.cells[2].update(execution_count=None), "not run top to bottom"),
        (lambda book: [cell.update(execution_count=None) for cell in code(book)], "has no cell that ran"),
        (lambda book: book.cells[-1].update(source="1"), "it holds no assert"),
        (lambda book: book.metadata.update(widgets={}), "state of widgets"),
        (
            lambda book: book.cells[2].outputs.append(nbformat.v4.new_output("error", evalue="x")),
            "holds an error",
        ),
        (
            lambda book: book.cells[2].outputs.append(nbformat.v4.new_output("stream", name="stderr", text="a font\n")),
            "warns its readers: a font",
        ),
        (lambda book: book.cells[2].outputs[0].update(text="<A at 0x7f0123456789>"), "address"),
        (lambda book: book.cells[2].outputs[0].update(text="x" * 200_000), "200000 or more"),
        (lambda book: book.cells[0].update(source="# A\n# B"), "2 lines `# Title`"),
        (lambda book: book.cells[0].update(source="# A\n" + "word " * 120), "121 words before cell 3"),
        (lambda book: book.cells[2].update(source="x\n" * 13), "13 lines in cell 3"),
    ],
)
def test_each_rule_finds_what_breaks_it(
    copy: pathlib.Path, edit: Callable[[nbformat.NotebookNode], object], problem: str
) -> None:
    assert problem in "; ".join(problems(edited(copy, edit)))


def long(book: nbformat.NotebookNode) -> None:
    more = [nbformat.v4.new_code_cell("1") for _ in range(25)]
    book.cells += more
    book.metadata.minitok.update(cpu=16.0, minutes=18)


@pytest.mark.parametrize(
    ("place", "problem"),
    [
        ("01_quantize/06_wetok", "more than 15; takes 16.0 CPU seconds, more than 12"),
        ("01_quantize/08_tokenbridge", "has 28 code cells, more than 22; takes 18 minutes"),
        ("01_quantize/00_overview", ""),
        ("01_quantize/01_vq", ""),
        ("00_start/00_tour", ""),
    ],
)
def test_parents_overviews_and_openings_have_more_room(copy: pathlib.Path, place: str, problem: str) -> None:
    path = edited(copy, long).rename(copy.with_name(f"{place.split('/')[1]}.ipynb"))
    path.parent.rename(target := path.parents[1] / f"{place.split('/')[0]}-")
    target = target.rename(target.with_name(place.split("/")[0]))
    told = "; ".join(excesses(target / path.name))
    assert problem in told
    assert bool(told) == bool(problem)


def test_a_lesson_has_10_code_cells_and_a_cost(copy: pathlib.Path) -> None:
    edited(copy, lambda book: book.metadata.minitok.pop("cpu"))
    (copy.parents[1] / "00_start").rename(copy.parents[1] / "01_quantize")
    found = excesses(copy.parents[1] / "01_quantize" / copy.name)
    assert found == ["has 3 code cells, fewer than 10", "takes inf CPU seconds, more than 12"]


def test_a_notebook_without_a_source_is_found(copy: pathlib.Path) -> None:
    lessons.source_of(copy).unlink()
    assert problems(copy) == ["has no source 00_start/01_doubling.py"]


def test_a_recorded_cost_moves_only_when_it_clearly_changed() -> None:
    costs = [lessons.steady(cpu, before=8.0) for cpu in (5.4, 5.5, 10.3, 10.4)]
    assert costs == [5.4, 8.0, 8.0, 10.4]
    assert lessons.header(1, 301.0).source == "*1 minute to read, 360 seconds to run on a CPU*"


def test_the_header_links_to_colab_once_the_repository_is_known(
    monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path
) -> None:
    address = "https://github.com/owner/name"
    (tmp_path / "pyproject.toml").write_text(f'[project]\nname = "x"\n[project.urls]\nRepository = "{address}"\n')
    monkeypatch.setattr(lessons.files, "ROOT", tmp_path)
    badge = lessons.badge(pathlib.Path("notebooks/01_quantize/01_vq.ipynb"))
    base = "https://colab.research.google.com/github/owner/name/blob/main"
    assert badge == f" · [Open in Colab]({base}/notebooks/01_quantize/01_vq.ipynb)"
    assert lessons.header(1, 5, badge).source == f"*1 minute to read, 5 seconds to run on a CPU*{badge}"
