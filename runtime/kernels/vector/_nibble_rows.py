"""Scores of one token with keys of nibbles, as LLVM: see ``_attention_scores``.

Nibbles are multiplied as they lie: one load has those of two parts of a row, 32 columns apart, and
they are numbers without a sign already. Codes of ``int4/v1`` are nibbles less 8.
"""

# mypy: disable-error-code="no-untyped-call"
# Numba's internals have no types.

from llvmlite import ir
from numba.core import cgutils

from edgellm.runtime.kernels.simd._lane_sums import shift_back, sum_four, sum_fours
from edgellm.runtime.kernels.simd._unit import (
    BLOCK,
    INT8,
    INT64,
    Builder,
    Value,
    Values,
    VectorUnit,
    load_vector,
    move,
    repeat,
    shuffle,
    splat,
)
from edgellm.runtime.kernels.vector._attention_tiles import ROWS, zeros
from edgellm.runtime.kernels.vector._read_ahead import NEAR
from edgellm.runtime.kernels.vector._tiles import LINE_BYTES, prefetch

CHUNK = 16
LOW, HIGH = 0x0F, 0xF0
HALF = BLOCK // 2

Pack = tuple[Value, Value, int, Value]
"""Codes of queries, what their sums begin with, how many queries, and columns of each."""


def dots(builder: Builder, unit: VectorUnit, pack: Pack, rows: Values, ahead: Value) -> list[Value]:
    """Return the sums of each query with four rows."""
    codes, starts, count, columns = pack
    totals = zeros(builder, unit, count * ROWS)
    xs = [move(builder, codes, builder.mul(columns, INT64(q))) for q in range(count)]
    with cgutils.for_range(builder, builder.udiv(columns, INT64(BLOCK))) as loop:
        places = _blocks(builder, rows, loop.index, ahead)
        column = builder.mul(loop.index, INT64(BLOCK))
        here = [unit.byte_vectors(builder, move(builder, x, column)) for x in xs]
        for n, place in enumerate(places):
            weights = unit.nibble_codes(builder, place)
            for q, x in enumerate(here):
                total = totals[q * ROWS + n]
                added = unit.dot_codes(builder, builder.load(total), weights, x)
                builder.store(added, total)
    results = []
    for q in range(count):
        own = totals[q * ROWS : (q + 1) * ROWS]
        four = [shift_back(builder, builder.load(total), unit.nibble_shifts) for total in own]
        sums = sum_four(builder, four)
        start = load_vector(builder, builder.gep(starts, [INT64(4 * q)]), sums.type)
        results.append(builder.add(sums, start))
    return results


def packed_dots(
    builder: Builder, unit: VectorUnit, pack: Pack, rows: Values, ahead: Value
) -> list[Value]:
    """Return the same where each query has 128 bits of a vector.

    Upper nibbles stay where they are: their sums are 16 times as large.
    """
    codes, starts, count, columns = pack
    narrow = ir.VectorType(INT8, CHUNK)
    low, high = zeros(builder, unit, ROWS), zeros(builder, unit, ROWS)
    with cgutils.for_range(builder, builder.udiv(columns, INT64(BLOCK))) as loop:
        places = _blocks(builder, rows, loop.index, ahead)
        column = builder.mul(loop.index, INT64(BLOCK))
        for begin in range(0, HALF, CHUNK):
            xs = []
            for first in (begin, HALF + begin):
                at = builder.mul(builder.add(column, INT64(first)), INT64(count))
                xs.append(load_vector(builder, move(builder, codes, at), unit.bytes_type))
            for n, place in enumerate(places):
                chunk = load_vector(builder, move(builder, place, INT64(begin)), narrow)
                pairs = repeat(builder, chunk, count)
                for total, mask, x in ((low[n], LOW, xs[0]), (high[n], HIGH, xs[1])):
                    own = builder.and_(pairs, splat(unit.bytes_type, mask))
                    builder.store(unit.dot_lanes(builder, builder.load(total), own, x), total)
    totals = [
        builder.add(builder.load(a), builder.ashr(builder.load(b), splat(unit.totals_type, 4)))
        for a, b in zip(low, high, strict=True)
    ]
    sums = sum_fours(builder, totals)
    sums = builder.add(sums, load_vector(builder, starts, sums.type))
    return [shuffle(builder, sums, sums, range(4 * q, 4 * q + 4)) for q in range(count)]


def _blocks(builder: Builder, rows: Values, index: Value, ahead: Value) -> list[Value]:
    """Return where a block of each row begins, and begin to read two lines ahead.

    A block of four rows is two lines. They are those in the order of memory where all heads of a
    row are read.
    """
    begin = builder.mul(index, INT64(HALF))
    coming = move(builder, rows[0], builder.add(ahead, builder.mul(begin, INT64(ROWS))))
    for line in range(0, ROWS * HALF, LINE_BYTES):
        prefetch(builder, move(builder, coming, INT64(line)), NEAR)
    return [move(builder, row, begin) for row in rows]
