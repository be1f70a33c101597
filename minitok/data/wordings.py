"""The words of questions about scenes, and the sentences that ask them: a vocabulary of about a hundred whole words.

Each kind of question has five wordings; the last one is held out of training, though each word of it is known.
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
    "can you find the {colour} {shape} %s the {colour2} {shape2} ?",
)
# The cases: what is asked, and its five wordings.
SENTENCES = {
    "exists": (
        "is there {a} {colour} {shape} ?",
        "do you see {a} {colour} {shape} ?",
        "does the picture show {a} {colour} {shape} ?",
        "can you find {a} {colour} {shape} ?",
        "is there {a} {colour} {shape} in the picture ?",
    ),
    "colour": (
        "what colour is the {shape} ?",
        "which colour has the {shape} ?",
        "the {shape} has what colour ?",
        "what is the colour of the {shape} ?",
        "which colour is the {shape} ?",
    ),
    "shape": (
        "what shape is the {colour} object ?",
        "which shape has the {colour} object ?",
        "the {colour} object has what shape ?",
        "what is the shape of the {colour} object ?",
        "which shape is the {colour} object ?",
    ),
    "count of all": (
        "how many objects are there ?",
        "how many objects do you see ?",
        "what is the number of objects ?",
        "the picture has how many objects ?",
        "how many objects are in the picture ?",
    ),
    "count of a colour": (
        "how many {colour} objects are there ?",
        "how many {colour} objects do you see ?",
        "what is the number of {colour} objects ?",
        "the picture has how many {colour} objects ?",
        "how many {colour} objects are in the picture ?",
    ),
    "count of a shape": (
        "how many {shapes} are there ?",
        "how many {shapes} do you see ?",
        "what is the number of {shapes} ?",
        "the picture has how many {shapes} ?",
        "how many {shapes} are in the picture ?",
    ),
    "left": tuple(sentence % "left of" for sentence in _BESIDE),
    "right": tuple(sentence % "right of" for sentence in _BESIDE),
    "above": tuple(sentence % "above" for sentence in _BESIDE),
    "below": tuple(sentence % "below" for sentence in _BESIDE),
    "digit": (
        "what digit is on the {colour} {shape} ?",
        "which digit has the {colour} {shape} ?",
        "the {colour} {shape} has what digit ?",
        "what is the digit on the {colour} {shape} ?",
        "which digit is on the {colour} {shape} ?",
    ),
    "motion": (
        "which way does the {colour} {shape} move ?",
        "what way does the {colour} {shape} move ?",
        "the {colour} {shape} moves which way ?",
        "do you see which way the {colour} {shape} moves ?",
        "the {colour} {shape} moves what way ?",
    ),
    "caption": (
        "what do you see ?",
        "what is in the picture ?",
        "what does the picture show ?",
        "which objects are there ?",
        "which objects do you see ?",
    ),
}
CASES = tuple(SENTENCES)
# Longest question in words: all are filled to this width in front, so that the last word stands at one place.
WIDTH = max(len(sentence.split()) for five in SENTENCES.values() for sentence in five)
_OTHERS = {word for five in SENTENCES.values() for sentence in five for word in sentence.split()} - {
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
def forms() -> Int64[Tensor, "cases 5 t"]:
    """All sentences as word numbers; blank i of `BLANKS` stands as -1 - i."""
    known = CODES | {blank: -1 - i for i, blank in enumerate(BLANKS)}
    rows = [sentence.split() for five in SENTENCES.values() for sentence in five]
    codes = [[0] * (WIDTH - len(row)) + [known[word] for word in row] for row in rows]
    return torch.tensor(codes).view(len(CASES), 5, WIDTH)


def fill(case: Int64[Tensor, " n"], wording: Int64[Tensor, " n"], blanks: Int64[Tensor, "n 6"]) -> Int64[Tensor, "n t"]:
    """The sentences of these cases and wordings, with word numbers for their blanks."""
    codes = forms().to(case.device)[case, wording]
    return codes.where(codes >= 0, blanks.gather(1, (-1 - codes).clamp(min=0)))
