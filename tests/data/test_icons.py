"""Icons: names and texts out of a made-up wheel, and what the published one holds."""

import xml.etree.ElementTree as xml
import zipfile

import pytest

from minitok.data import icons, wheels


@pytest.fixture
def made_up(tmp_path, monkeypatch):
    path = tmp_path / "icons.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name in (
            "material/b.svg",
            "material/a-é.svg",
            "material/LICENSE",
            "octicons/c-16.svg",
            "simple/d.svg",
        ):
            archive.writestr(f"material/templates/.icons/{name}", f"<svg>{name}</svg>")
    monkeypatch.setattr(wheels, "fetch", lambda name: path)


def test_a_family_is_read_sorted_by_name(made_up):
    assert list(icons.load().items()) == [
        ("a-é", "<svg>material/a-é.svg</svg>"),
        ("b", "<svg>material/b.svg</svg>"),
    ]
    assert icons.load("octicons") == {"c-16": "<svg>octicons/c-16.svg</svg>"}


def test_other_families_are_refused(made_up):
    with pytest.raises(ValueError, match="family='simple' is not one of material, octicons"):
        icons.load("simple")


@pytest.mark.parametrize(("family", "count", "some"), [("material", 7447, "cat"), ("octicons", 720, "alert-16")])
def test_the_published_icons_are_drawings(published, family, count, some):
    published("mkdocs-material")
    found = icons.load(family)
    assert len(found) == count
    assert some in found
    for text in list(found.values())[::50]:
        assert xml.fromstring(text).tag == "{http://www.w3.org/2000/svg}svg"
