"""Solutions to the exercises of notebooks/01_quantize/03_fsq.ipynb; running this file checks them."""

import itertools
import math


def levels_for(target):
    """Exercise 1: all sets of 5 to 8 levels whose product can be near, and the nearest; the fewest channels first."""
    most = max(1, math.ceil(math.log(target, 5)))
    sets = [c for d in range(1, most + 1) for c in itertools.combinations_with_replacement((8, 7, 6, 5), d)]
    return min(sets, key=lambda levels: abs(math.prod(levels) - target))


def neighbours(code, levels):
    """Exercise 2: each digit of the mixed-radix number one down and one up, where there is such a level."""
    found, radix = [], 1
    for L in levels:
        digit = code // radix % L
        found += [code + step * radix for step in (-1, 1) if 0 <= digit + step < L]
        radix *= L
    return found


if __name__ == "__main__":
    assert levels_for(64) == (8, 8)
    assert math.prod(levels_for(256)) == 252
    assert levels_for(1024) == (8, 5, 5, 5)
    assert levels_for(4096) == (8, 8, 8, 8)
    assert sorted(neighbours(0, (3, 3))) == [1, 3]
    assert sorted(neighbours(4, (3, 3))) == [1, 3, 5, 7]
    assert sorted(neighbours(9, (5, 4))) == [4, 8, 14]
    for levels in ((2, 2), (8, 6, 5)):
        for code in range(math.prod(levels)):
            assert all(code in neighbours(near, levels) for near in neighbours(code, levels))
            assert all(0 <= near < math.prod(levels) for near in neighbours(code, levels))
