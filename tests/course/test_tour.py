"""The tour's page for a picture: what it holds, that it needs nothing else, and which pictures it refuses."""

import html.parser
import pathlib
import re

import numpy as np
import pytest
from PIL import Image

from minitok.course import lessons
from minitok.course import tour as tours
from minitok.course.execution import CellError
from minitok.course.tour import check_picture, tour

SOURCE = """# %% [markdown]
# # Tokens & pictures
# Some **words**, [a lesson](01_lesson.ipynb) and [a paper](https://arxiv.org/abs/1711.00937).

# %%
import os
import sys
from IPython.display import Image, display
from ipywidgets import IntSlider

path = os.environ["MINITOK_PICTURE"]
assert "MINITOK_RECORD" not in os.environ
print("the picture is", os.path.basename(path))
Image(path)

# %% [markdown] tags=["interactive"]
# Move the slider.

# %%
print("a warning", file=sys.stderr)
display(IntSlider())
"""


@pytest.fixture
def source(tmp_path: pathlib.Path) -> pathlib.Path:
    path = tmp_path / "course" / "src" / "00_start" / "00_tour.py"
    path.parent.mkdir(parents=True)
    path.write_text(SOURCE, encoding="utf-8")
    (tmp_path / "course" / "00_start").mkdir()
    return path


@pytest.fixture
def picture(tmp_path: pathlib.Path) -> pathlib.Path:
    pixels = np.random.default_rng(0).integers(0, 255, (70, 64, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "my cat.png")
    return tmp_path / "my cat.png"


class Addresses(html.parser.HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.found += [value or "" for name, value in attrs if name in ("src", "href", "data")]


def test_the_page_shows_words_and_results_and_needs_nothing_else(
    source: pathlib.Path, picture: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MINITOK_RECORD", "1")
    monkeypatch.chdir(picture.parent)
    out = tour(picture.name, "pages/cat.html", source)
    assert out == picture.parent / "pages" / "cat.html"
    page = out.read_text(encoding="utf-8")
    assert "<title>Tokens &amp; pictures</title>" in page
    assert "<strong>words</strong>" in page
    assert "the picture is my cat.png" in page
    for absent in ("import os", "IntSlider", "Move the slider", "@import", "url("):
        assert absent not in page
    parsed = Addresses()
    parsed.feed(page)
    assert "script" not in parsed.tags
    assert "a lesson" in page  # as words: the page goes alone, so what lies beside the notebook is no link
    link, image = sorted(parsed.found, reverse=True)
    assert link == "https://arxiv.org/abs/1711.00937"
    assert image.startswith("data:image/png;base64,")


def test_a_page_is_not_touched_when_a_cell_fails(source: pathlib.Path, picture: pathlib.Path) -> None:
    out = picture.parent / "tour.html"
    out.write_text("old")
    source.write_text("# %% [markdown]\n# # Tour\n\n# %%\nraise KeyError('no')\n")
    with pytest.raises(CellError, match=r"cell 2(.|\n)*KeyError: 'no'"):
        tour(picture, out, source)
    assert out.read_text() == "old"


def test_what_is_no_picture_is_refused(picture: pathlib.Path, tmp_path: pathlib.Path) -> None:
    assert check_picture(picture) == picture
    (tmp_path / "words.png").write_text("words")
    (tmp_path / "half.png").write_bytes(picture.read_bytes()[:5000])
    Image.new("RGB", (63, 640)).save(tmp_path / "thin.png")
    with pytest.raises(FileNotFoundError, match="there is no picture"):
        check_picture(tmp_path / "nothing.png")
    with pytest.raises(ValueError, match="is a folder: name a picture in it"):
        check_picture(tmp_path)
    for name in ("words.png", "half.png"):
        with pytest.raises(ValueError, match=f"{name} cannot be read as a picture"):
            check_picture(tmp_path / name)
    with pytest.raises(ValueError, match=r"63x640 pixels; the tour needs 64 or more a side"):
        check_picture(tmp_path / "thin.png")


def test_a_tour_outside_a_clone_says_so(picture: pathlib.Path, tmp_path: pathlib.Path) -> None:
    with pytest.raises(FileNotFoundError, match="in a clone of the project"):
        tour(picture, tmp_path / "tour.html", tmp_path / "nothing.py")


def test_what_the_page_says_makes_sense_alone() -> None:
    cells = lessons.read_source(tours.SOURCE).cells
    told = [c.source for c in cells if c.cell_type == "markdown" and "interactive" not in c.metadata.get("tags", [])]
    assert re.findall(r"(?i)`None`|slider|kernel|notebook|\bcells?\b|\.ipynb", "\n".join(told)) == []


def test_a_page_that_cannot_be_written_is_refused_before_the_work(
    source: pathlib.Path, picture: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tours.execution, "run", lambda *_, **__: pytest.fail("the work has begun"))
    with pytest.raises(ValueError, match="is a folder: name a file in it"):
        tour(picture, picture.parent, source)
    with pytest.raises(ValueError, match="cannot be written"):
        tour(picture, picture / "page.html", source)
