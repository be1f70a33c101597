"""Solutions to the exercises of notebooks/01_quantize/03_fsq.ipynb."""

import itertools
import math


def my_bound(z, levels, eps=1e-3):
    """Exercise 1: half a step lower for even levels, and shifted so that 0 stays 0."""
    half = (levels - 1) * (1 + eps) / 2
    offset = (levels % 2 == 0).to(z.dtype) / 2
    return (z + (offset / half).atanh()).tanh() * half - offset


def levels_for(target):
    """Exercise 2: all sets of 5 to 8 levels whose product can be near, and the nearest; the fewest channels first."""
    most = max(1, math.ceil(math.log(target, 5)))
    sets = [c for d in range(1, most + 1) for c in itertools.combinations_with_replacement((8, 7, 6, 5), d)]
    return min(sets, key=lambda levels: abs(math.prod(levels) - target))


def neighbours(code, levels):
    """Exercise 3: each digit of the mixed-radix number one down and one up, where there is such a level."""
    found, radix = [], 1
    for L in levels:
        digit = code // radix % L
        found += [code + step * radix for step in (-1, 1) if 0 <= digit + step < L]
        radix *= L
    return found
