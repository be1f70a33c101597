"""Solutions to the exercises of notebooks/02_image/03_one_d_piece.ipynb; running this file checks them."""

import torch

from minitok import house
from minitok.data import photographs
from minitok.metrics import psnr


def fewest(model, tokens, images, wanted):
    """Exercise 1: the first length that suffices (in the lesson `model` is a global)."""
    quality = torch.stack([psnr(model.decode(tokens[:k]), images) for k in range(1, len(tokens) + 1)], dim=1)
    enough = quality >= wanted
    return torch.where(enough.any(1), enough.int().argmax(1) + 1, len(tokens))


def heard_at(i, n):
    """Exercise 2: of the lengths 1, 2, 4, ..., n those that are at least i."""
    lengths = [2**power for power in range(n.bit_length())]
    return sum(length >= i for length in lengths) / len(lengths)


def pack(numbers):
    """Exercise 3: one long whole number, 12 bits a code, the last bits empty."""
    value = 0
    for number in numbers:
        value = value << 12 | number
    spare = -12 * len(numbers) % 8
    return (value << spare).to_bytes((3 * len(numbers) + 1) // 2, "big")


def unpack(packed, k):
    """Exercise 3, back: the code i is 12 bits from the left."""
    value = int.from_bytes(packed, "big") >> -12 * k % 8
    return [value >> 12 * (k - 1 - i) & 4095 for i in range(k)]


if __name__ == "__main__":
    model, images = house.load("one_d_piece"), photographs.crops(3, 64)
    tokens = model.encode(images)
    table = torch.stack([psnr(model.decode(tokens[:k]), images) for k in range(1, 65)])
    for wanted in (12.0, 19.0, 99.0):
        for i, k in enumerate(fewest(model, tokens, images, wanted).tolist()):
            assert k == 64 or table[k - 1, i] >= wanted
            assert not (table[: k - 1, i] >= wanted).any()
    for i, share in ((1, 1.0), (2, 6 / 7), (3, 5 / 7), (33, 1 / 7), (64, 1 / 7)):
        assert abs(heard_at(i, 64) - share) < 1e-9
    assert abs(heard_at(3, 4) - 1 / 3) < 1e-9
    for k in (1, 2, 3, 8, 63, 64):
        numbers = tokens.codes[0, :k, 0].tolist()
        assert len(pack(numbers)) == (3 * k + 1) // 2
        assert unpack(pack(numbers), k) == numbers
