"""The words of questions about scenes, and the sentences that ask them: a vocabulary of about a hundred whole words.

Each kind of question has ten wordings; the last two are held out of training, though each word of them is known.
"""

from functools import cache

import torch
from jaxtyping import Int64
from torch import Tensor

from minitok.data.shapes import COLOURS, SHAPES

NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
WAYS = ("left", "right", "up", "down", "nowhere")
PLURALS = tuple(name + ("es" if name.endswith("s") else "s") for name in SHAPES)
# What a sentence leaves open, in the order in which `fill` is given the words for it.
BLANKS = ("{a}", "{colour}", "{shape}", "{shapes}", "{colour2}", "{shape2}")
_BESIDE = (
    "is the {colour} {shape} %s the {colour2} {shape2} ?",
    "does the {colour} {shape} stand %s the {colour2} {shape2} ?",
    "do you see the {colour} {shape} %s the {colour2} {shape2} ?",
    "the {colour} {shape} is %s the {colour2} {shape2} ?",
    "does the {colour} {shape} lie %s the {colour2} {shape2} ?",
    "can you see the {colour} {shape} %s the {colour2} {shape2} ?",
    "the {colour} {shape} stands %s the {colour2} {shape2} ?",
    "you see the {colour} {shape} %s the {colour2} {shape2} ?",
    "can you find the {colour} {shape} %s the {colour2} {shape2} ?",
    "do you find the {colour} {shape} %s the {colour2} {shape2} ?",
)
_COUNT = (
    "how many %s are there ?",
    "how many %s do you see ?",
    "what is the number of %s ?",
    "the picture has how many %s ?",
    "how many %s do you see in the picture ?",
    "how many %s does the picture show ?",
    "what is the number of %s in the picture ?",
    "how many %s can you find ?",
    "how many %s are in the picture ?",
    "how many %s are there in the picture ?",
)
_LABEL = (
    "what %(label)s is the %(thing)s ?",
    "which %(label)s has the %(thing)s ?",
    "the %(thing)s has what %(label)s ?",
    "what is the %(label)s of the %(thing)s ?",
    "what %(label)s is the %(thing)s in the picture ?",
    "what %(label)s has the %(thing)s ?",
    "the %(thing)s is of which %(label)s ?",
    "the %(thing)s in the picture has which %(label)s ?",
    "which %(label)s is the %(thing)s ?",
    "what is the %(label)s of the %(thing)s in the picture ?",
)
# The cases: what is asked, and its ten wordings.
SENTENCES = {
    "exists": (
        "is there {a} {colour} {shape} ?",
        "do you see {a} {colour} {shape} ?",
        "does the picture show {a} {colour} {shape} ?",
        "can you find {a} {colour} {shape} ?",
        "do you see {a} {colour} {shape} in the picture ?",
        "can you find {a} {colour} {shape} in the picture ?",
        "is {a} {colour} {shape} there ?",
        "is {a} {colour} {shape} in the picture ?",
        "is there {a} {colour} {shape} in the picture ?",
        "can you see {a} {colour} {shape} ?",
    ),
    "colour": tuple(sentence % {"label": "colour", "thing": "{shape}"} for sentence in _LABEL),
    "shape": tuple(sentence % {"label": "shape", "thing": "{colour} object"} for sentence in _LABEL),
    "count of all": tuple(sentence % "objects" for sentence in _COUNT),
    "count of a colour": tuple(sentence % "{colour} objects" for sentence in _COUNT),
    "count of a shape": tuple(sentence % "{shapes}" for sentence in _COUNT),
    "left": tuple(sentence % "left of" for sentence in _BESIDE),
    "right": tuple(sentence % "right of" for sentence in _BESIDE),
    "above": tuple(sentence % "above" for sentence in _BESIDE),
    "below": tuple(sentence % "below" for sentence in _BESIDE),
    "digit": (
        "what digit is on the {colour} {shape} ?",
        "which digit has the {colour} {shape} ?",
        "the {colour} {shape} has what digit ?",
        "what is the digit on the {colour} {shape} ?",
        "what digit do you see on the {colour} {shape} ?",
        "what digit has the {colour} {shape} ?",
        "the {colour} {shape} has which digit ?",
        "what digit does the {colour} {shape} show ?",
        "which digit is on the {colour} {shape} ?",
        "which digit do you see on the {colour} {shape} ?",
    ),
    "motion": (
        "which way does the {colour} {shape} move ?",
        "what way does the {colour} {shape} move ?",
        "the {colour} {shape} moves which way ?",
        "do you see which way the {colour} {shape} moves ?",
        "which way do you see the {colour} {shape} move ?",
        "where does the {colour} {shape} move ?",
        "the {colour} {shape} moves where ?",
        "can you see which way the {colour} {shape} moves ?",
        "the {colour} {shape} moves what way ?",
        "what way do you see the {colour} {shape} move ?",
    ),
    "caption": (
        "what do you see ?",
        "what is in the picture ?",
        "what does the picture show ?",
        "which objects are there ?",
        "what do you see in the picture ?",
        "which objects does the picture show ?",
        "what can you see ?",
        "which objects can you find in the picture ?",
        "which objects do you see ?",
        "which objects are there in the picture ?",
    ),
}
# How many of the ten, the last, are held out of training.
HELD_OUT = 2
CASES = tuple(SENTENCES)
# Longest question in words: all are filled to this width in front, so that the last word stands at one place.
WIDTH = max(len(sentence.split()) for ten in SENTENCES.values() for sentence in ten)
_OTHERS = {word for ten in SENTENCES.values() for sentence in ten for word in sentence.split()} - {
    *BLANKS,
    *WAYS,
    "?",
}
# The first word fills rows up; "." ends an answer.
WORDS = (
    *("-", "?", ".", ",", "and", "a", "an", "yes", "no"), *COLOURS, *SHAPES, *PLURALS, *NUMBERS, *WAYS,
    *"0123456789", *sorted(_OTHERS),
)  # fmt: skip
CODES = {word: code for code, word in enumerate(WORDS)}
# Words without which a question can still be understood, one by one.
LIGHT = ("a", "an", "are", "can", "do", "does", "find", "has", "in", "is", "of", "on", "picture", "see", "show", "the")
LIGHT += ("there", "what", "which", "you")


def encode(sentences: list[str]) -> Int64[Tensor, "n t"]:
    """The word numbers of questions, each row filled in front.

    >>> encode(["what colour is the heart ?"])[0, -2:].tolist() == [CODES["heart"], CODES["?"]]
    True

    Raises `ValueError` for a word that is not among `WORDS`, and for a question of more than `WIDTH` words.
    """
    rows = [sentence.split() for sentence in sentences]
    for row in rows:
        if unknown := [word for word in row if word not in CODES]:
            raise ValueError(f"the word {unknown[0]!r} is not one of the {len(WORDS)} words of questions")
        if len(row) > WIDTH:
            raise ValueError(f"{' '.join(row)!r} has {len(row)} words, expected at most {WIDTH}")
    codes = [[CODES["-"]] * (WIDTH - len(row)) + [CODES[word] for word in row] for row in rows]
    return torch.tensor(codes, dtype=torch.int64).reshape(len(rows), WIDTH)


def decode(codes: Int64[Tensor, "n t"]) -> list[str]:
    """Sentences of word numbers: the filling is left out, and what follows a full stop.

    >>> decode(torch.tensor([[0, CODES["red"], CODES["."], CODES["red"]]]))
    ['red .']
    """
    sentences = []
    for row in codes.tolist():
        words = [WORDS[code] for code in row if code]
        sentences.append(" ".join(words[: words.index(".") + 1] if "." in words else words))
    return sentences


@cache
def forms() -> Int64[Tensor, "cases 10 t"]:
    """All sentences as word numbers; blank i of `BLANKS` stands as -1 - i."""
    known = CODES | {blank: -1 - i for i, blank in enumerate(BLANKS)}
    rows = [sentence.split() for ten in SENTENCES.values() for sentence in ten]
    codes = [[0] * (WIDTH - len(row)) + [known[word] for word in row] for row in rows]
    return torch.tensor(codes).view(len(CASES), 10, WIDTH)


def fill(case: Int64[Tensor, " n"], wording: Int64[Tensor, " n"], blanks: Int64[Tensor, "n 6"]) -> Int64[Tensor, "n t"]:
    """The sentences of these cases and wordings, with word numbers for their blanks."""
    codes = forms().to(case.device)[case, wording]
    return codes.where(codes >= 0, blanks.gather(1, (-1 - codes).clamp(min=0)))
