"""Named SVG icons from the wheel of mkdocs-material (9.3 MB, fetched on first use): text that draws.

What: two families of one style each: material (7,447 icons, each one path on a grid of 24x24) and octicons
(720 icons, on grids of 12, 16, 24 and a few larger). The wheel's other families are mostly trademarks and are
left out.
Licence: material: Apache-2.0, attribution Pictogrammers; octicons: MIT, attribution GitHub Inc.
URL: https://pictogrammers.com/library/mdi, https://primer.style/octicons
"""

import pathlib
import zipfile

from minitok.data import check_choice, wheels

FAMILIES = ("material", "octicons")


def load(family: str = "material") -> dict[str, str]:
    """The icons of a family as name -> SVG text, sorted by name: `load()["cat"]` begins with "<svg xmlns=".

    Raises `ValueError` for an unknown family, and what `wheels.fetch` raises.
    """
    check_choice("family", family, FAMILIES)
    wheel = "mkdocs-material"
    names = wheels.members(wheel, f"material/templates/.icons/{family}/*.svg")
    with zipfile.ZipFile(wheels.fetch(wheel)) as archive:
        return {pathlib.PurePosixPath(name).stem: archive.read(name).decode() for name in names}
