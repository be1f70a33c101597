"""Python's own source as text and as pairs; no file of it is pinned, as it differs between versions."""

import ast
import json.decoder
import pathlib

import pytest

from minitok.data import source_code

CLASS = '''
class Stack:
    """Not a function."""

    @property
    def top(self) -> int:
        """
        The last
        item.

        More words.
        """
        # kept
        return self.items[-1]

    def only(self):
        """Nothing else."""

    def bare(self):
        return 1

    def one_line(self): "Says nothing."; return 2

    def shared(self):
        "Ends on the line"; return 3

    async def fetch(
        self, url
    ):
        "Fetches."
        text = """
  less indented
"""
        def inner():
            "Inner."
            return text

        return inner
'''


def test_pairs_are_cut_out_of_a_source():
    top, fetch, inner = source_code.pairs_of(CLASS)
    assert top == ("The last item.", "def top(self) -> int:\n    # kept\n    return self.items[-1]")
    assert fetch[0] == "Fetches."
    assert fetch[1].startswith("async def fetch(\n    self, url\n):\n    text = ")
    assert "\n  less indented\n" in fetch[1]
    assert fetch[1].endswith("\n\n    return inner")
    assert inner == ("Inner.", "def inner():\n    return text")


def test_a_form_feed_does_not_shift_the_lines():
    source = 'def f():\n    "One."\n    return 1\n\x0c\ndef g():\n    "Two."\n    return 2\n'
    assert list(source_code.pairs_of(source)) == [
        ("One.", "def f():\n    return 1"),
        ("Two.", "def g():\n    return 2"),
    ]


def test_files_are_those_of_this_python_sorted_without_tests_and_packages():
    files = source_code.files()
    names = [name for name, _ in files]
    assert len(names) > 300
    assert names == sorted(names)
    assert dict(files)["json/decoder.py"] == pathlib.Path(json.decoder.__file__).read_text(encoding="utf-8")
    parts = {part for name in names for part in name.split("/")}
    assert not parts & {"test", "tests", "site-packages", "dist-packages"}
    assert source_code.files(limit=3) == files[:3]


def test_pairs_of_this_python_parse_and_lack_their_docstring():
    pairs = source_code.pairs(limit=300)
    assert len(pairs) == 300
    assert source_code.pairs(limit=7) == pairs[:7]
    for summary, source in pairs:
        (function,) = ast.parse(source).body
        assert isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
        assert summary == " ".join(summary.split()) != ""
        assert " ".join((ast.get_docstring(function) or "").split()) != summary


@pytest.mark.parametrize("give", [source_code.files, source_code.pairs])
def test_a_limit_below_one_is_refused(give):
    with pytest.raises(ValueError, match="limit=0 is below 1"):
        give(limit=0)
