"""The static site: every notebook a page with its committed outputs, nothing is run, the catalogue is the front page.

Sphinx reads the notebooks where they lie; what it makes goes into build/, which git ignores. Whatever it warns of, such
as a link that leads nowhere, is an error.
"""

import pathlib
import shutil
from typing import TYPE_CHECKING

from minitok import files

if TYPE_CHECKING:
    from sphinx.application import Sphinx

FRONT = "README"
CONFIG = {
    "project": "minitok",
    "extensions": ["myst_nb"],
    "root_doc": FRONT,
    "exclude_patterns": ["src", "**/.ipynb_checkpoints"],
    "html_theme": "sphinx_book_theme",
    "html_title": "minitok",
    "html_show_sphinx": False,
    "html_copy_source": False,
    "html_css_files": ["minitok.css"],
    "myst_enable_extensions": ["dollarmath", "amsmath"],
    "myst_heading_anchors": 4,
    "nb_execution_mode": "off",
    "nitpicky": True,
}

# Paths break where a telephone's line ends; what was printed is cut where 85 letters end, rather than 70.
STYLE = """code, code .pre { overflow-wrap: anywhere; white-space: normal !important; }
pre code { white-space: inherit !important; }
pre { font-size: 0.8em; }
@media (max-width: 40rem) { th, td { padding: 0.2rem !important; font-size: 0.85em; } }
"""


def tree(folder: pathlib.Path) -> str:
    """The table of contents that the front page gets: a part for each folder of notebooks."""
    parts = []
    for chapter in sorted(path for path in folder.glob("[0-9]*") if any(path.glob("*.ipynb"))):
        number, name = chapter.name.split("_", 1)
        caption = f"{int(number)}. {name.capitalize()}" if int(number) else name.capitalize()
        parts.append(f"```{{toctree}}\n:hidden:\n:glob:\n:caption: {caption}\n\n{chapter.name}/*\n```\n")
    return "\n".join(parts)


def build(folder: pathlib.Path = files.ROOT / "notebooks", out: pathlib.Path = files.ROOT / "build") -> pathlib.Path:
    """Makes the site of a folder of notebooks in `out`/site and returns the path of its front page.

    Raises `FileNotFoundError` where there are no notebooks, `ValueError` when Sphinx warned of anything; it has then
    said of what.
    """
    if not (folder / f"{FRONT}.md").exists():
        raise FileNotFoundError(f"{folder} holds no {FRONT}.md: run this in a clone of the project")
    from sphinx.application import Sphinx
    from sphinx.util.docutils import docutils_namespace, patch_docutils

    site, trees = out / "site", out / "doctrees"
    shutil.rmtree(site, ignore_errors=True)
    with patch_docutils(), docutils_namespace():
        app = Sphinx(folder, None, site, trees, "html", CONFIG, status=None, freshenv=True, warningiserror=True)
        app.connect("source-read", add_tree)
        app.build()
    files.write(site / "_static" / "minitok.css", STYLE)
    if app.statuscode:
        raise ValueError("the site has faults; the lines above name them")
    return pathlib.Path(shutil.copy(site / f"{FRONT}.html", site / "index.html"))


def add_tree(app: "Sphinx", page: str, content: list[str]) -> None:
    """Puts the table of contents below the front page as Sphinx reads it; its diagram needs a script and stays text."""
    if page == FRONT:
        content[0] = content[0].replace("```mermaid", "```text") + f"\n{tree(pathlib.Path(app.srcdir))}"
