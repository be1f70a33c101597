"""What to read before what: the lines of all notebooks, and of made-up ones."""

import pytest

from minitok import cli, files, papers
from minitok.course import paths

SOURCES = paths.sources()
LESSONS = [path for path in SOURCES if path.parent.name != "00_start"]


def lesson(first="", more=""):
    return f"# %% [markdown]\n# # A title\n#\n# **Read first:** {first}\n#\n# More. {more}\n\n# %%\n1 + 1\n"


@pytest.fixture
def course(project):
    def write(**texts):
        for name, text in texts.items():
            files.write(project / "notebooks" / "src" / "01_quantize" / f"{name}.py", text)
        return project / "notebooks" / "src" / "01_quantize"

    return write


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_every_link_leads_to_a_notebook_and_every_lesson_is_linked(source):
    text = paths.words(source)
    assert [path.stem for path in paths.links(source, text) if not path.is_file()] == []
    assert paths.way(source)[-1] == source
    assert paths.NAMED.findall(text) == []


@pytest.mark.parametrize("source", LESSONS, ids=lambda path: path.stem)
def test_every_lesson_says_what_to_read_first(source):
    assert "**Read first:**" in paths.words(source)


def test_the_way_is_in_order_and_says_each_once(course):
    folder = course(
        **{"01_vq": lesson("nothing."), "02_rvq": lesson("[VQ](01_vq.ipynb),\n# and [it](01_vq.ipynb#end).")},
        **{"03_fsq": lesson("[RVQ](02_rvq.ipynb) and [VQ](01_vq.ipynb).", "[below](04_lfq.ipynb)")},
    )
    assert [path.stem for path in paths.way(folder / "03_fsq.py")] == ["01_vq", "02_rvq", "03_fsq"]
    assert papers.path("vq") == [paths.Step("01_quantize/01_vq.ipynb", "A title", 0)]
    files.write(files.ROOT / "notebooks/01_quantize/01_vq.ipynb", '{"metadata": {"minitok": {"minutes": 7}}}')
    assert papers.path("fsq")[0].minutes == 7
    assert paths.path_table("rvq").splitlines()[0] == "1.  A title  01_quantize/01_vq.ipynb   7 min"
    assert paths.path_table("rvq").endswith("In all: 7 minutes.")


def test_circles_and_links_to_nothing_are_found(course):
    folder = course(**{"01_vq": lesson("[b](02_rvq.ipynb)"), "02_rvq": lesson("[a](01_vq.ipynb)")})
    with pytest.raises(ValueError, match="Read first leads to a circle: 01_vq <- 02_rvq <- 01_vq"):
        paths.way(folder / "01_vq.py")
    course(**{"02_rvq": lesson("[x](09_none.ipynb)")})
    with pytest.raises(ValueError, match="Read first leads to no notebook: 09_none <- 02_rvq"):
        papers.path("rvq")
    with pytest.raises(ValueError, match="fqgan is planned: it has no notebook yet"):
        papers.path("fqgan")


def test_a_lesson_that_is_named_and_not_linked_is_found():
    text = "see `01_speculative`, [`02_rvq`](02_rvq.ipynb), `05_speculate/01_speculative.ipynb` and `on_layer`"
    assert paths.NAMED.findall(text) == ["`01_speculative`", "`05_speculate/01_speculative.ipynb`"]


def test_an_installed_package_has_no_paths(project):
    with pytest.raises(FileNotFoundError, match="an installed package holds none"):
        papers.path("vq")


def test_the_command_prints_the_path(capsys):
    assert cli.main(["path", "tome"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-3].split()[-3] == "06_reduce/02_tome.ipynb"
    assert "01_random_drop" in lines[-4]
