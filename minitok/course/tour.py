"""The tour of the course on a picture of your own, as one HTML page that needs nothing else."""

import copy
import html
import os
import pathlib
import re
from typing import TYPE_CHECKING

from minitok import files
from minitok.course import execution, lessons

if TYPE_CHECKING:
    from nbformat import NotebookNode

SOURCE = lessons.SOURCES / "00_start" / "00_tour.py"
PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark; }}
body {{ max-width: 46rem; margin: 2rem auto; padding: 0 1rem; font: 1.05rem/1.6 system-ui, sans-serif; }}
img, svg {{ max-width: 100%; height: auto; }}
pre {{ white-space: pre-wrap; overflow-wrap: anywhere; font: 0.9rem/1.4 ui-monospace, monospace; }}
table {{ display: block; overflow-x: auto; border-collapse: collapse; }}
p, li, h1, h2, h3 {{ overflow-wrap: anywhere; }}
footer {{ margin-top: 3rem; border-top: 1px solid #8888; font-size: 0.9rem; }}
th, td {{ padding: 0.2rem 0.8rem; border-bottom: 1px solid #8888; text-align: left; }}
@media (max-width: 40rem) {{ th, td {{ padding: 0.2rem; font-size: 0.85rem; }} pre {{ font-size: 0.75rem; }} }}
.output_stderr {{ display: none; }}
</style>
</head>
<body>
{body}
<footer><p>This page was made by the tour of minitok, a course on tokens. There, it is a notebook: each picture stands
beside the few lines that made it, and lessons follow on every step.</p></footer>
</body>
</html>
"""


def check_picture(path: str | os.PathLike[str]) -> pathlib.Path:
    """The absolute path of a picture that the tour can read; raises as `minitok.data.picture.load` does."""
    from minitok.data import picture

    picture.load(path)
    return picture.find(path)


def page(notebook: "NotebookNode") -> str:
    """A notebook that was run, as an HTML page: text and results without code, pictures inside, no scripts.

    Cells tagged `interactive` are left out, as are widgets: they need a kernel, or speak of what is not on the page.
    """
    from nbconvert import HTMLExporter

    shown = copy.deepcopy(notebook)
    shown.cells = [cell for cell in shown.cells if "interactive" not in cell.metadata.get("tags", [])]
    execution.clean(shown)
    for cell in shown.cells:
        if cell.cell_type == "markdown":  # the page goes alone: what lies beside the notebook cannot be reached from it
            cell.source = re.sub(r"\[([^]]+)\]\((?!https?:)[^)]*\)", r"\1", cell.source)
    exporter = HTMLExporter(
        template_name="basic",
        exclude_input=True,
        exclude_input_prompt=True,
        exclude_output_prompt=True,
        exclude_anchor_links=True,
    )
    body, _ = exporter.from_notebook_node(shown)
    return PAGE.format(title=html.escape(shown.cells[0].source.splitlines()[0].lstrip("# ")), body=body)


def tour(
    picture: str | os.PathLike[str], out: str | os.PathLike[str] = "tour.html", source: pathlib.Path = SOURCE
) -> pathlib.Path:
    """Runs the tour on a picture and writes it to `out`; returns the page's absolute path.

    The notebook reads the picture's path from the variable MINITOK_PICTURE. Raises as `check_picture` does,
    `FileNotFoundError` outside a clone of the project, `ValueError` before the work when `out` cannot be written,
    and `CellError` when a cell fails; `out` is written whole or not at all.
    """
    path, target = check_picture(picture), files.check_target(out)
    if not source.exists():
        raise FileNotFoundError("the tour's notebook is not here: run it in a clone of the project")
    notebook = lessons.read_source(source)
    folder = lessons.notebook_of(source).parent
    execution.run(notebook, folder, {"MINITOK_PICTURE": str(path)}, "tour", fresh=True)
    files.write(target, page(notebook))
    return target
