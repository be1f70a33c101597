"""The kernels of `tome_triton`: which edges are strongest, who goes to which output, and the means.

Of n tokens, A = (n + 1) // 2 have even places, n // 2 odd ones; edges go by the place in the set, tokens by their own.
"""

import triton
import triton.language as tl


@triton.jit
def split(x, high, low, c, C: tl.constexpr):
    """Each token over its length, times 1024, as a sum of two numbers of float16."""
    row, channels = tl.program_id(0).to(tl.int64), tl.arange(0, C)
    inside = channels < c
    token = tl.load(x + row * c + channels, mask=inside, other=0.0)
    unit = token * (1024 / tl.maximum(tl.sqrt(tl.sum(token * token, 0)), 1e-12))
    whole = unit.to(tl.float16)
    tl.store(high + row * c + channels, whole, mask=inside)
    tl.store(low + row * c + channels, (unit - whole.to(tl.float32)).to(tl.float16), mask=inside)


@triton.jit
def lengths(x, inverse, n, c, total, ROWS: tl.constexpr, C: tl.constexpr):
    """One over the length of ROWS of all tokens of odd places."""
    rows, channels = (tl.program_id(0) * ROWS + tl.arange(0, ROWS)).to(tl.int64), tl.arange(0, C)
    place = rows // (n // 2) * n + rows % (n // 2) * 2 + 1
    inside = (rows < total)[:, None] & (channels < c)[None, :]
    token = tl.load(x + place[:, None] * c + channels[None, :], mask=inside, other=0.0).to(tl.float32)
    tl.store(inverse + rows, 1 / tl.maximum(tl.sqrt(tl.sum(token * token, 1)), 1e-12), mask=rows < total)


@triton.jit
def match(
    high, low, inverse, nearness, partner, n, c,
    ROWS: tl.constexpr, COLS: tl.constexpr, DEPTH: tl.constexpr, EVEN: tl.constexpr, SPLIT: tl.constexpr,
):  # fmt: skip
    """The nearest partner of ROWS tokens of A, or -1 where a product is not finite, and its cosine.

    EVEN says that DEPTH channels at a time end where the channels end, SPLIT that tokens come from `split`; others
    need the `inverse` lengths of B.
    """
    A, B = (n + 1) // 2, n // 2
    blocks = tl.cdiv(A, ROWS)
    # Backwards, then forwards to merge: what was read last may still be in the cache.
    program = tl.num_programs(0) - 1 - tl.program_id(0)
    item = (program // blocks).to(tl.int64)
    rows, depth = program % blocks * ROWS + tl.arange(0, ROWS), tl.arange(0, DEPTH)
    # Past the end the last token comes again: of equals the first wins.
    left = item * n * c + (2 * tl.minimum(rows, A - 1) * c)[:, None] + depth[None, :]
    best, place = tl.full((ROWS,), float("-inf"), tl.float32), tl.zeros((ROWS,), tl.int32)
    total, own = tl.zeros((ROWS,), tl.float32), tl.full((ROWS,), 1 / 1048576, tl.float32)
    for first in range(0, B, COLS):
        cols = tl.minimum(first + tl.arange(0, COLS), B - 1)
        right = item * n * c + ((2 * cols + 1) * c)[:, None] + depth[None, :]
        score = tl.zeros((ROWS, COLS), tl.float32)
        for k in range(0, c, DEPTH):
            inside = ((depth < c - k) | EVEN)[None, :]
            x = tl.load(high + left + k, mask=inside, other=0.0)
            y = tl.load(high + right + k, mask=inside, other=0.0)
            if SPLIT:
                score = tl.dot(tl.load(low + left + k, mask=inside, other=0.0), tl.trans(y), score)
                score = tl.dot(x, tl.trans(tl.load(low + right + k, mask=inside, other=0.0)), score)
            score = tl.dot(x, tl.trans(y), score)
        if not SPLIT:
            score *= tl.load(inverse + item * B + cols)[None, :]
        value, which = tl.max(score, 1, return_indices=True)
        place = tl.where(value > best, first + which, place)
        best, total = tl.maximum(best, value), total + tl.sum(score, 1)
    if not SPLIT:
        squares = tl.zeros((ROWS, DEPTH // 8), tl.float32)
        for k in range(0, c, DEPTH):
            x = tl.load(high + left + k, mask=((depth < c - k) | EVEN)[None, :], other=0.0)
            # Eight squares beside each other are in one thread.
            wide = tl.reshape(x.to(tl.float32), (ROWS, DEPTH // 8, 8))
            squares += tl.sum(wide * wide, 2)
        own = 1 / tl.maximum(tl.sqrt(tl.sum(squares, 1)), 1e-12)
    tl.store(nearness + item * A + rows, best * own, mask=rows < A)
    # A maximum passes over NaN, a sum does not.
    tl.store(partner + item * A + rows, tl.where(tl.abs(total) < float("inf"), place, -1), mask=rows < A)


@triton.jit
def choose(nearness, partner, assignment, lists, members, n, r, SIZE: tl.constexpr):
    """Of a batch row with r merged tokens: which output each goes to; of each output, head, start and count in lists.

    `members` holds the merged tokens of A, by partner and then by place.
    """
    item, at, A, k = tl.program_id(0).to(tl.int64), tl.arange(0, SIZE), (n + 1) // 2, n - r
    assignment, members, lists = assignment + item * n, members + item * r, lists + item * 3 * k
    even, odd = at < A, at < n // 2
    near = tl.load(nearness + item * A + at, mask=even, other=float("-inf"))
    partner = tl.maximum(tl.load(partner + item * A + at, mask=even, other=0), 0)
    # Whole numbers in the order of the float32, both zeros alike; the r-th highest, from its highest bit on.
    bits = tl.where(near == 0, 0.0, near).to(tl.int32, bitcast=True)
    rising = tl.where(bits < 0, bits ^ 0x7FFFFFFF, bits).to(tl.int64) + 2147483648
    limit = tl.zeros((), tl.int64)
    for i in range(32):
        higher = limit + (tl.full((), 2147483648, tl.int64) >> i)
        limit = tl.where(tl.sum((rising >= higher).to(tl.int32), 0) >= r, higher, limit)
    above, level = rising > limit, (rising == limit) & even
    merged = above | (level & (tl.cumsum(level.to(tl.int32), 0) <= r - tl.sum(above.to(tl.int32), 0)))
    listed = tl.sort(tl.where(merged, partner * SIZE + at, 0x7FFFFFFF)) % SIZE
    tl.store(members + at, 2 * listed, mask=at < r)
    count = tl.histogram(partner, SIZE, mask=merged)
    start = tl.cumsum(count, 0) - count
    # An output stands where its first token stood, which may be a merged one.
    first = tl.where(count > 0, tl.gather(listed, tl.minimum(start, SIZE - 1), 0), SIZE)
    leads = even & ((merged == 0) | ((tl.gather(first, partner, 0) == at) & (at <= partner)))
    follows = (odd & (first > at)).to(tl.int32)
    number = tl.cumsum(leads.to(tl.int32), 0) + tl.cumsum(follows, 0) - follows
    place = number - leads.to(tl.int32)
    cluster = tl.where(first > at, number, tl.gather(place, tl.minimum(first, SIZE - 1), 0))
    output = tl.where(merged, tl.gather(cluster, partner, 0), place)
    tl.store(assignment + 2 * at, output.to(tl.int64), mask=even)
    tl.store(assignment + 2 * at + 1, cluster.to(tl.int64), mask=odd)
    alone, none = even & (merged == 0), tl.zeros_like(at)
    tl.store(lists + output, 2 * at, mask=alone)
    tl.store(lists + k + output, none, mask=alone)
    tl.store(lists + 2 * k + output, none, mask=alone)
    tl.store(lists + cluster, 2 * at + 1, mask=odd)
    tl.store(lists + k + cluster, start, mask=odd)
    tl.store(lists + 2 * k + cluster, count, mask=odd)


@triton.jit
def merge(
    x, weights, out, lists, members, n, k, r, c, C: tl.constexpr, SOME: tl.constexpr, ALIKE: tl.constexpr
):  # fmt: skip
    """The mean of one output's tokens: its head, and SOME of its others at a time, in their order; ALIKE in weight."""
    row = tl.program_id(0).to(tl.int64)
    item, channels = row // k, tl.arange(0, C)
    lists, inside, members = lists + item * 3 * k + row % k, channels < c, members + item * r
    x, weights = x + item * n * c, weights + item * n
    head, begin, others = tl.load(lists), tl.load(lists + k), tl.load(lists + 2 * k)
    total = tl.load(x + head * c + channels, mask=inside, other=0.0).to(tl.float32)
    weight = 1.0 + others
    if not ALIKE:
        weight = tl.load(weights + head)
        total *= weight
    for i in range(0, others, SOME):
        valid = i + tl.arange(0, SOME) < others
        which = tl.load(members + begin + i + tl.arange(0, SOME), mask=valid, other=0)
        mask = valid[:, None] & inside[None, :]
        part = tl.load(x + which[:, None] * c + channels[None, :], mask=mask, other=0.0).to(tl.float32)
        if not ALIKE:
            share = tl.load(weights + which, mask=valid, other=0.0)
            part, weight = part * share[:, None], weight + tl.sum(share, 0)
        total += tl.sum(part, 0)
    tl.store(out + row * c + channels, (total / weight).to(out.dtype.element_ty), mask=inside)
