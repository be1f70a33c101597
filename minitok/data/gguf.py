"""Reads GGUF files: what is known of a model (its facts) and its weights, turned back from few bits into float32.

What: a header, facts as (name, type, value), then tensors, whose weights stand in blocks of 32 that share a scale.
Only the types of weight that our models hold are read: F32, Q4_1 (4 bits, scale and offset), Q8_0 (8 bits, scale).
URL: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

import math
import struct
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

# The struct format of each type of fact; 8 is text and 9 a list.
FACTS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
F32, Q4_1, Q8_0 = 0, 3, 8
# Weights and bytes of a block: two bytes of scale, for Q4_1 two of offset, then the codes.
BLOCKS = {F32: (1, 4), Q4_1: (32, 20), Q8_0: (32, 34)}


class Place(NamedTuple):
    """Where a tensor stands: its type, its shape with the rows first, and the bytes from `start` to `end`."""

    kind: int
    shape: tuple[int, ...]
    start: int
    end: int


class Reader:
    """Takes values from bytes one after the other; raises `ValueError` where the bytes end too early."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def take(self, size: int) -> bytes:
        """The next `size` bytes."""
        if size > len(self.data) - self.at:
            raise ValueError(f"data ends at byte {len(self.data)}, expected {size} more from byte {self.at}: cut short")
        self.at += size
        return self.data[self.at - size : self.at]

    def numbers(self, code: str, count: int = 1) -> tuple[Any, ...]:
        """The next `count` numbers of a struct format."""
        return struct.unpack(f"<{count}{code}", self.take(count * struct.calcsize(f"<{code}")))

    def text(self) -> str:
        """A length, and so many bytes of UTF-8."""
        return self.take(self.numbers("Q")[0]).decode()

    def fact(self, kind: int) -> Any:
        """One value of a type, which may be a list."""
        if kind == 8:
            return self.text()
        if kind == 9:
            inner, count = *self.numbers("I"), *self.numbers("Q")
            return (
                list(self.numbers(FACTS[inner], count)) if inner in FACTS else [self.fact(inner) for _ in range(count)]
            )
        if kind not in FACTS:
            raise ValueError(f"a fact of type {kind} came, expected one of 0 to 12: this is no GGUF file of version 3")
        return self.numbers(FACTS[kind])[0]


class GGUF:
    """The facts of a file, and its tensors on demand. Raises `ValueError` where the bytes are not a whole file."""

    def __init__(self, data: bytes) -> None:
        reader = Reader(data)
        magic, (version,) = reader.take(4), reader.numbers("I")
        if magic != b"GGUF" or version != 3:
            raise ValueError(f"data begins with {magic!r} and version {version}, expected b'GGUF' and 3")
        tensors, facts = reader.numbers("Q", 2)
        self.data = data
        self.facts = {reader.text(): reader.fact(*reader.numbers("I")) for _ in range(facts)}
        heads = [self.head(reader) for _ in range(tensors)]
        alignment = self.facts.get("general.alignment", 32)
        start = -(-reader.at // alignment) * alignment
        self.places = {name: self.place(name, shape, kind, start + offset) for name, shape, kind, offset in heads}

    @staticmethod
    def head(reader: Reader) -> tuple[str, tuple[int, ...], int, int]:
        """Name, shape, type and offset of a tensor; the file names the columns first."""
        name = reader.text()
        shape = reader.numbers("Q", *reader.numbers("I"))[::-1]
        return name, shape, *reader.numbers("I"), *reader.numbers("Q")

    def place(self, name: str, shape: tuple[int, ...], kind: int, start: int) -> Place:
        """Checks that a tensor's type is known and its bytes are there."""
        if kind not in BLOCKS:
            raise ValueError(f"tensor {name} has weights of type {kind}, expected F32 (0), Q4_1 (3) or Q8_0 (8)")
        if kind != F32 and (not shape or shape[-1] % 32):
            raise ValueError(f"tensor {name} has shape {shape}: its rows do not divide into blocks of 32")
        count, size = BLOCKS[kind]
        end = start + math.prod(shape) // count * size
        if end > len(self.data):
            raise ValueError(f"tensor {name} ends at byte {end} of {len(self.data)}: the file is cut short")
        return Place(kind, shape, start, end)

    def tensor(self, name: str) -> Float[Tensor, "..."]:
        """A tensor in float32; `ValueError` when the file has none of this name."""
        if name not in self.places:
            raise ValueError(f"name={name!r} is no tensor of this file; it has {', '.join(list(self.places)[:3])}, ...")
        kind, shape, start, end = self.places[name]
        return weights(self.data[start:end], kind).view(shape)


def weights(data: bytes, kind: int) -> Float[Tensor, "n"]:
    """Blocks of weights in float32: `scale * code`, and for Q4_1 plus `offset`.

    >>> weights(struct.pack("<ee16B", 0.5, -1.0, *([0x2F] * 16)), Q4_1)[[0, 15, 16, 31]].tolist()
    [6.5, 6.5, 0.0, 0.0]

    A byte of Q4_1 holds two codes: the low half is of the block's first 16 weights, the high half of the last 16.
    """
    if kind == F32:
        return torch.from_numpy(np.frombuffer(data, "<f4").astype(np.float32))
    blocks = np.frombuffer(data, np.uint8).reshape(-1, BLOCKS[kind][1])
    if kind == Q4_1:
        codes = np.concatenate([blocks[:, 4:] & 15, blocks[:, 4:] >> 4], axis=1)
    else:
        codes = blocks[:, 2:].view(np.int8)
    values = codes.astype(np.float32)
    values *= blocks[:, :2].view("<f2").astype(np.float32)
    if kind == Q4_1:
        values += blocks[:, 2:4].view("<f2").astype(np.float32)
    return torch.from_numpy(values).flatten()
