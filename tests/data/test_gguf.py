"""Files written here byte by byte are read as they are; files that are cut, odd or of another kind are refused."""

import struct

import numpy as np
import pytest
import torch

from minitok.data.gguf import F32, GGUF, Q4_1, Q8_0, weights


def text(value):
    return struct.pack("<Q", len(value.encode())) + value.encode()


def written(facts=(), tensors=(), magic=b"GGUF", version=3, alignment=32):
    """A file of facts (name, type, bytes) and tensors (name, shape, type, bytes)."""
    head = magic + struct.pack("<IQQ", version, len(tensors), len(facts))
    for name, kind, value in facts:
        head += text(name) + struct.pack("<I", kind) + value
    body = b""
    for name, shape, kind, data in tensors:
        body += b"\0" * (-len(body) % alignment)
        head += text(name) + struct.pack(f"<I{len(shape)}Q", len(shape), *shape[::-1])
        head += struct.pack("<IQ", kind, len(body))
        body += data
    return head + b"\0" * (-len(head) % alignment) + body


def test_facts_of_every_type_are_read():
    facts = [
        ("a", 8, text("SmolLM é")),
        ("b", 4, struct.pack("<I", 4_000_000_000)),
        ("c", 5, struct.pack("<i", -7)),
        ("d", 6, struct.pack("<f", 0.5)),
        ("e", 7, b"\1"),
        ("f", 9, struct.pack("<IQ", 8, 2) + text("x") + text("")),
        ("g", 9, struct.pack("<IQ3i", 5, 3, 1, -2, 3)),
        ("h", 9, struct.pack("<IQ", 9, 1) + struct.pack("<IQ2B", 0, 2, 8, 9)),
        *(("i", 0, b"\xff"), ("j", 1, b"\xff"), ("k", 2, b"\1\2"), ("l", 3, b"\xfe\xff")),
        *(("m", 10, b"\1" + b"\0" * 7), ("n", 11, b"\xff" * 8), ("o", 12, struct.pack("<d", 1e300))),
    ]
    found = GGUF(written(facts)).facts
    assert list(found.values())[:6] == ["SmolLM é", 4_000_000_000, -7, 0.5, True, ["x", ""]]
    assert list(found.values())[6:] == [[1, -2, 3], [[8, 9]], 255, -1, 513, -2, 1, -1, 1e300]
    assert "".join(found) == "abcdefghijklmno"


def test_tensors_are_read_row_by_row_from_where_the_file_says():
    plain = np.arange(6, dtype="<f4")
    blocks = struct.pack("<e32b", 0.25, *range(-16, 16)) * 2
    tensors = [("one", (2, 3), F32, plain.tobytes()), ("two", (1, 64), Q8_0, blocks)]
    file = GGUF(written([("general.alignment", 4, struct.pack("<I", 64))], tensors, alignment=64))
    assert file.tensor("one").tolist() == [[0, 1, 2], [3, 4, 5]]
    assert file.tensor("two").tolist() == [[code / 4 for code in range(-16, 16)] * 2]
    assert file.tensor("two").dtype == torch.float32


def test_four_bits_are_those_of_a_plain_loop():
    data, expected, draw = b"", [], np.random.default_rng(0)
    for _ in range(7):
        scale, offset = np.float16(draw.random()), np.float16(draw.normal())
        codes = draw.integers(0, 16, 32)
        data += struct.pack("<ee", scale, offset)
        data += bytes(int(codes[i]) + 16 * int(codes[i + 16]) for i in range(16))
        expected += [float(scale) * int(code) + float(offset) for code in codes]
    torch.testing.assert_close(weights(data, Q4_1), torch.tensor(expected), atol=1e-6, rtol=1e-6)


def test_a_file_without_tensors_has_none():
    file = GGUF(written())
    assert (file.facts, file.places) == ({}, {})
    with pytest.raises(ValueError, match="name='x' is no tensor of this file"):
        file.tensor("x")


WHOLE = written([("a", 8, text("b"))], [("t", (4,), F32, b"\0" * 16)])


@pytest.mark.parametrize("size", range(len(WHOLE)))
def test_a_file_that_was_cut_anywhere_is_refused(size):
    with pytest.raises(ValueError, match="cut short"):
        GGUF(WHOLE[:size])


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (written(magic=b"GGML"), "begins with b'GGML' and version 3"),
        (written(version=2), "and version 2, expected b'GGUF' and 3"),
        (written([("a", 13, b"")]), "a fact of type 13 came, expected one of 0 to 12"),
        (written([("a", 9, struct.pack("<IQ", 77, 1))]), "a fact of type 77"),
        (written([("a", 8, struct.pack("<Q", 2**63))]), "expected 9223372036854775808 more"),
        (written((), [("t", (32,), 2, b"")]), r"tensor t has weights of type 2, expected F32 \(0\)"),
        (written((), [("t", (3, 33), Q8_0, b"")]), r"tensor t has shape \(3, 33\): its rows"),
        (written((), [("t", (), Q4_1, b"")]), r"tensor t has shape \(\)"),
        (written((), [("t", (2, 64), Q4_1, b"\0" * 79)]), "tensor t ends at byte .*cut short"),
        (written([("a", 9, struct.pack("<IQ", 4, 2**62))]), "cut short"),
    ],
)
def test_a_file_of_another_kind_is_refused(data, message):
    with pytest.raises(ValueError, match=message):
        GGUF(data)
