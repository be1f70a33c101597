"""The prose is the text of Python's own help."""

import sys

import pytest

from minitok.data import prose


def test_every_topic_is_there_once_and_in_order():
    from pydoc_data.topics import topics

    text = prose.load()
    assert len(text) > 300_000
    places = [text.index(topics[name].strip("\n")) for name in ("assert", "for", "while", "yield")]
    assert places == sorted(places)
    for topic in topics.values():
        assert topic.strip("\n") in text
    assert len(text) <= sum(len(topic) + 2 for topic in topics.values())


def test_equal_topics_are_given_once(monkeypatch):
    import pydoc_data.topics

    monkeypatch.setattr(pydoc_data.topics, "topics", {"b": "Two.\n", "a": "\nOne.\n", "c": "Two.\n"})
    assert prose.load() == "One.\n\nTwo.\n"


def test_a_python_without_help_says_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "pydoc_data.topics", None)
    with pytest.raises(ModuleNotFoundError, match="full standard library"):
        prose.load()
