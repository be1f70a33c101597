"""Questions: their answers are true of the scenes, worked out anew by a plain loop over objects and words."""

from collections import Counter

import pytest
import torch

from minitok.data import clips, scenes
from minitok.data.asked import pick
from minitok.data.questions import KINDS, SLOTS, ask
from minitok.data.shapes import COLOURS, SHAPES
from minitok.data.wordings import CODES, NUMBERS, PLURALS, SENTENCES, WAYS, WIDTH, WORDS, decode, encode

COLOUR_NAMES = list(COLOURS)
SCENES = scenes.render(300, seed=3)
ASKED = ask(SCENES, SLOTS, seed=5)
CLIPS = clips.render(120, seed=4, frames=4)
MOVING = (("motion",), ("digit",), ("exists",), ("caption",))


def things(drawn, i):
    """(slot, colour, shape, x, y, digit) of each object of scene i."""
    return [
        (
            s,
            COLOUR_NAMES[drawn.colour[i, s]],
            SHAPES[drawn.shape[i, s]],
            *drawn.centre[i, s].tolist(),
            drawn.glyph[i, s],
        )
        for s in range(drawn.present.shape[1])
        if drawn.present[i, s]
    ]


def named(words, there):
    """The objects that the words of a question name: each colour with the shape that follows, in order."""
    found = []
    for first, second in zip(words, [*words[1:], ""], strict=True):
        if first in COLOUR_NAMES and second in SHAPES:
            found.append([t for t in there if t[1:3] == (first, second)])
    return found


def truth(kind, words, there):
    """The right answer, from the words of a question and the objects of its scene alone."""
    pairs = named(words, there)
    if kind == "exists":
        return "yes" if pairs[0] else "no"
    if kind in ("colour", "shape"):
        (found,) = [t for t in there if t[2] in words or t[1] in words]
        return found[1] if kind == "colour" else found[2]
    if kind == "count":
        colours, plurals = set(words) & set(COLOUR_NAMES), set(words) & set(PLURALS)
        kept = [t for t in there if not colours or t[1] in colours]
        return NUMBERS[len([t for t in kept if not plurals or PLURALS[SHAPES.index(t[2])] in plurals])]
    if kind == "digit":
        ((found,),) = pairs
        return str(int(found[5]))
    ((one,), (two,)) = pairs
    across, down = two[3] - one[3], two[4] - one[4]
    return "yes" if {"left": across, "right": -across, "above": down, "below": -down}[kind] > 0 else "no"


def test_answers_are_true_of_the_scenes():
    rows = ASKED[(ASKED.kind >= 0) & (ASKED.kind < KINDS.index("caption"))]
    kinds = Counter()
    for words, answer, kind, scene in zip(
        decode(rows.words), decode(rows.answer), rows.kind.tolist(), rows.scene.tolist(), strict=True
    ):
        kinds[KINDS[kind]] += 1
        assert answer == truth(KINDS[kind], words.split(), things(SCENES, scene)) + " .", words
    assert min(kinds[kind] for kind in KINDS if kind not in ("motion", "caption")) > 60


def test_the_objects_asked_for_are_those_named():
    rows = ASKED[(ASKED.kind >= 0) & (ASKED.kind < KINDS.index("motion"))]
    for words, kind, scene, first, second in zip(
        decode(rows.words), rows.kind.tolist(), rows.scene.tolist(), rows.first.tolist(), rows.second.tolist(),
        strict=True,
    ):  # fmt: skip
        there = {t[0]: t for t in things(SCENES, scene)}
        pairs = named(words.split(), list(there.values()))
        if KINDS[kind] == "exists":
            assert first == (pairs[0][0][0] if pairs[0] else -1)
        elif KINDS[kind] in ("left", "right", "above", "below"):
            assert [first, second] == [pair[0][0] for pair in pairs]
        elif KINDS[kind] == "count":
            assert (first, second) == (-1, -1)
        else:
            assert second == -1
            assert {there[first][1], there[first][2]} & set(words.split())


def test_captions_name_all_objects_from_left_to_right():
    for i, said in enumerate(decode(ASKED.answer[:, -1])):
        order = sorted(things(SCENES, i), key=lambda t: t[3])
        phrases = [f"{'an' if t[1] == 'orange' else 'a'} {t[1]} {t[2]}" for t in order]
        listed = " and ".join(filter(None, [" , ".join(phrases[:-1]), phrases[-1]]))
        assert said == listed + " ."


def test_close_objects_are_not_asked_about():
    for i, axis in ((4, 0), (5, 0), (6, 1), (7, 1)):
        rows = ASKED[ASKED.kind == i]
        along = SCENES.centre[rows.scene, :, axis]
        gap = along.gather(1, rows.first[:, None]) - along.gather(1, rows.second[:, None])
        assert float(gap.abs().min()) >= 4


def test_ways_and_digits_of_clips():
    asked = ask(CLIPS, MOVING, seed=1)
    for slot, kind in enumerate(("motion", "digit")):
        rows = asked[:, slot][asked.kind[:, slot] >= 0]
        assert len(rows.kind) > 20
        for answer, scene, first in zip(decode(rows.answer), rows.scene, rows.first, strict=True):
            start, end = CLIPS.tracks[scene, 0, first], CLIPS.tracks[scene, -1, first]
            x, y = (end - start).round().int().tolist()
            way = {(-1, 0): "left", (1, 0): "right", (0, -1): "up", (0, 1): "down", (0, 0): "nowhere"}
            sign = ((x > 0) - (x < 0), (y > 0) - (y < 0))
            assert answer == (way[sign] if kind == "motion" else str(int(CLIPS.glyph[scene, first]))) + " ."


def test_rows_depend_on_the_seed_and_not_on_the_number_of_scenes():
    few = ask(SCENES[:7], SLOTS, seed=5)
    assert all(torch.equal(a, b[:7]) for a, b in zip(vars(few).values(), vars(ASKED).values(), strict=True))
    other = ask(SCENES, SLOTS, seed=6)
    assert (other.words != ASKED.words).any(2).float().mean() > 0.5


def test_wordings_held_out_are_never_seen():
    held = ask(SCENES, SLOTS, seed=5, wordings="held out")
    rows = ask(SCENES, SLOTS, seed=5, wordings="all").words.flatten(0, 1)
    seen, kept = ({tuple(row) for row in q.words.flatten(0, 1).tolist()} for q in (ASKED, held))
    assert not seen & kept
    both = {tuple(row) for row in rows.tolist()}
    assert both & seen
    assert both & kept


def test_every_word_of_a_wording_held_out_is_seen():
    seen = {word for ten in SENTENCES.values() for sentence in ten[:8] for word in sentence.split()}
    for ten in SENTENCES.values():
        assert len(set(ten)) == 10
        assert set(" ".join(ten[8:]).split()) <= seen


def test_answers_are_not_given_away_by_their_likeliest():
    for kind, most in (("exists", 0.6), ("colour", 0.2), ("count", 0.65), ("left", 0.6), ("digit", 0.2)):
        words = ASKED.answer[..., 0][ASKED.kind == KINDS.index(kind)]
        assert float(words.bincount().max()) / len(words) < most


def test_words_there_and_back():
    rows = encode(["what digit is on the red heart ?", "what do you see ?"])
    assert rows.shape == (2, WIDTH)
    assert decode(rows) == ["what digit is on the red heart ?", "what do you see ?"]
    assert len(set(WORDS)) == len(WORDS) == len(CODES)
    assert set(WAYS) < set(WORDS)
    assert encode([]).shape == (0, WIDTH)


def test_the_last_true_value_can_be_picked():
    mask = torch.ones(1, 72, dtype=torch.bool)
    largest = torch.tensor([1 - 2**-24])  # times 72 it rounds to 72
    assert pick(mask, largest).tolist() == [71]


@pytest.mark.usefixtures("unchecked")
def test_bad_input_is_named():
    with pytest.raises(ValueError, match="the word 'cat' is not one of the"):
        encode(["is there a cat ?"])
    with pytest.raises(ValueError, match="has 13 words, expected at most 12"):
        encode([" ".join(["red"] * 13)])
    with pytest.raises(ValueError, match="slots hold the kind 'taste'"):
        ask(SCENES, (("taste",),))
    with pytest.raises(ValueError, match="wordings='new' is not one of seen, held out, all"):
        ask(SCENES, wordings="new")
    with pytest.raises(ValueError, match="'motion', which can be asked of clips only"):
        ask(SCENES, (("motion",),))
    with pytest.raises(ValueError, match="frames=1 is less than 2"):
        clips.render(1, frames=1)
