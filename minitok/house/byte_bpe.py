"""A byte-level BPE tokenizer of given tokens and merges, as GPT-2, Llama 3 and SmolLM2 have it.

Text is cut into words, each number sign on its own; a word is a list of bytes; of all neighbours that may merge, those
of the earliest merge do, until none may. So `decode(encode(text)) == text` for any text whose bytes all have tokens.
"""

import functools
import itertools
import re
import sys
import unicodedata
from collections.abc import Sequence

# White space as Unicode defines it: Python's \s has four control characters more.
SPACE = "\\t-\\r \\x85\\xa0\\u1680\\u2000-\\u200a\\u2028\\u2029\\u202f\\u205f\\u3000"
# Of text without number signs, so that letters are what \w has beside the underscore.
WORD = re.compile(f"'(?:[stmd]|re|ve|ll)| ?[^\\W_]+| ?(?:[^\\w{SPACE}]|_)+|[{SPACE}]+(?![^{SPACE}])|[{SPACE}]+")


@functools.cache
def number() -> re.Pattern[str]:
    """A number sign: besides those of Python's \\d what Unicode takes for one, such as fractions and Roman numerals."""
    others = "".join(c for c in map(chr, range(sys.maxunicode + 1)) if unicodedata.category(c) in ("Nl", "No"))
    return re.compile(f"([\\d{others}])")


def signs() -> dict[int, str]:
    """The printable sign by which a list of tokens writes each byte: itself, or one from U+0100 on.

    >>> signs()[ord("a")], signs()[ord(" ")]
    ('a', 'Ġ')
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = (byte for byte in range(256) if byte not in printable)
    return {byte: chr(byte) for byte in printable} | {byte: chr(0x100 + i) for i, byte in enumerate(others)}


def words(text: str) -> list[str]:
    """Cuts a text into the words inside which merges may happen; joined again they are the text.

    >>> words("it's  16 bits")
    ['it', "'s", '  ', '1', '6', ' bits']
    """
    parts = number().split(text)
    return [word for i, part in enumerate(parts) for word in ([part] if i % 2 else WORD.findall(part))]


class ByteBPE:
    """Tokens, each with its number, and the pairs that may merge, the earliest first."""

    def __init__(self, tokens: Sequence[str], merges: Sequence[str], special: Sequence[str] = ()) -> None:
        """`merges` are pairs such as "t he"; `special` names the tokens that text never becomes.

        Raises `ValueError` when a merge makes something that is no token, or `special` holds a name that is none.
        """
        self.tokens = list(tokens)
        self.ids = {token: i for i, token in enumerate(self.tokens)}
        self.rank = {(left, right): i for i, (left, right) in enumerate(merge.split(" ") for merge in merges)}
        self.sign = signs()
        self.byte = {sign: byte for byte, sign in self.sign.items()}
        self.known: dict[str, list[int]] = {}
        lacking = [name for name in (*map("".join, self.rank), *special) if name not in self.ids]
        if lacking:
            raise ValueError(f"tokens lacks {len(lacking)} that merges make or special names, such as {lacking[0]!r}")
        self.special = {name: self.ids[name] for name in special}

    def __len__(self) -> int:
        return len(self.tokens)

    def merged(self, word: str) -> list[int]:
        """The tokens of one word."""
        parts = [self.sign[byte] for byte in word.encode()]
        if not self.ids.keys() >= set(parts):
            raise ValueError(f"text holds {word!r}, of which some bytes have no token: control or private signs")
        while len(parts) > 1:
            pairs = list(itertools.pairwise(parts))
            best = min(pairs, key=lambda pair: self.rank.get(pair, len(self.rank)))
            if best not in self.rank:
                break
            i = pairs.index(best)
            parts[i : i + 2] = ["".join(best)]
        return [self.ids[part] for part in parts]

    def encode(self, text: str) -> list[int]:
        """The tokens of a text, by their numbers. Names of special tokens are text like any other.

        Raises `ValueError` for a sign with a byte that no token stands for (SmolLM2 lacks some that are hardly used).
        """
        found = words(text)
        self.known |= {word: self.merged(word) for word in set(found) - self.known.keys()}
        return [i for word in found for i in self.known[word]]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of tokens, special ones by their names; U+FFFD where their bytes are not whole signs.

        Raises `ValueError` for a number that no token has.
        """
        if any(not 0 <= i < len(self) for i in ids):
            raise ValueError(f"ids run from {min(ids)} to {max(ids)}, expected 0 to {len(self) - 1}")
        special = set(self.special.values())
        parts = [
            self.tokens[i].encode() if i in special else bytes(self.byte[sign] for sign in self.tokens[i]) for i in ids
        ]
        return b"".join(parts).decode("utf-8", "replace")
