"""The static site: every notebook is a page with its outputs, nothing is run, and a broken link is an error."""

import pathlib
import re

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from minitok.course import site

pytestmark = pytest.mark.filterwarnings(
    "ignore::PendingDeprecationWarning", "ignore::DeprecationWarning"
)  # Sphinx and theme
pytest.importorskip("sphinx_book_theme", reason="the packages of the site are not installed")


@pytest.fixture
def course(tmp_path: pathlib.Path) -> pathlib.Path:
    """A course of one lesson with a link to its module, and the tour."""
    folder = tmp_path / "notebooks"
    for name, words in {
        "00_start/00_tour": "[First](../01_quantize/01_vq.ipynb)",
        "01_quantize/01_vq": "$x^2$",
    }.items():
        cells = [
            new_markdown_cell(f"# The title of {name[-2:]}\n\n{words}"),
            new_code_cell("1 / 0", execution_count=1, outputs=[new_output("stream", text="what was committed")]),
        ]
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        nbformat.write(
            new_notebook(cells=cells, metadata={"language_info": {"name": "python"}}), folder / f"{name}.ipynb"
        )
    (folder / "src").mkdir()
    (folder / "src" / "no_page.md").write_text("# No page\n")
    (tmp_path / "vq.py").write_text("codes = 1\n")
    (folder / "README.md").write_text(
        "# All lessons\n\n[VQ](01_quantize/01_vq.ipynb) and [its module](../vq.py)\n\n```mermaid\na --> b\n```\n"
    )
    return folder


def test_every_notebook_is_a_page_with_what_was_committed(course: pathlib.Path, tmp_path: pathlib.Path) -> None:
    before = sorted(course.rglob("*"))
    front = site.build(course, tmp_path / "build")
    assert front == tmp_path / "build" / "site" / "index.html"
    pages = sorted(path.relative_to(front.parent).as_posix() for path in front.parent.glob("*/[0-9]*.html"))
    assert pages == ["00_start/00_tour.html", "01_quantize/01_vq.html"]
    page = (front.parent / pages[1]).read_text(encoding="utf-8")
    assert "what was committed" in page
    assert "ZeroDivisionError" not in page
    first = front.read_text(encoding="utf-8")
    assert all(f'href="{name}"' in first for name in pages)
    assert "1. Quantize" in first
    (style,) = re.findall(r'href="(_static/minitok\.css[^"]*)"', first)
    assert "code, code .pre { overflow-wrap: anywhere" in (front.parent / style.split("?")[0]).read_text()
    assert list((front.parent / "_downloads").rglob("vq.py"))
    assert not list(front.parent.rglob("no_page*"))
    assert sorted(course.rglob("*")) == before


@pytest.mark.parametrize("link", ["(02_rvq.ipynb)", "(../nothing.py)", "(01_quantize/01_vq.ipynb#no-such-part)"])
def test_a_broken_link_is_an_error(link: str, course: pathlib.Path, tmp_path: pathlib.Path) -> None:
    with (course / "README.md").open("a") as file:
        file.write(f"\n[broken]{link}\n")
    with pytest.raises(ValueError, match="the site has faults"):
        site.build(course, tmp_path / "build")


def test_without_a_catalogue_it_says_so(tmp_path: pathlib.Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"holds no README\.md"):
        site.build(tmp_path, tmp_path / "build")
