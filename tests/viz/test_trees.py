import pytest

from minitok.viz.trees import places, tree


def test_parents_stand_in_the_middle_of_their_children():
    # The root has 1 and 2, 1 has 3 and 4, 2 has 5: leaves 3, 4, 5 one below the other.
    assert places([0, 0, 1, 1, 2]) == [(0, 1.25), (1, 0.5), (1, 2), (2, 0), (2, 1), (2, 2)]
    assert places([]) == [(0, 0)]


def test_words_stand_at_their_places_and_the_path_in_colour():
    figure = tree(["the", " a b", "\n", "x" * 20], [0, 0, 1], "three drafts", path=[0, 1])
    (axes,) = figure.axes
    assert [text.get_text() for text in axes.texts] == ["the", "\u00b7a\u00b7b", "\\n", "x" * 14]
    assert [text.get_position() for text in axes.texts] == places([0, 0, 1])
    assert [text.get_weight() for text in axes.texts] == ["bold", "bold", "normal", "normal"]
    assert axes.get_title(loc="left") == "three drafts"
    assert len(tree(["the"], [], "no drafts").axes[0].texts) == 1


def test_words_and_parents_must_fit():
    with pytest.raises(ValueError, match="2 words came for a root and 2 nodes"):
        tree(["a", "b"], [0, 0], "")
