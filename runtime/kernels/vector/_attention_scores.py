"""The scores of one token, as LLVM: all its queries with a block of keys, row by row.

Keys, (L, H, D) with D a multiple of 64, are read once and in the order of memory, which is what
processors read ahead best: in a loop by itself 4,096 rows of 640 bytes take one thread of a server
of 2024 170 us, where only to read them takes 160, and head after head takes 200.

Queries that share a head of the keys go in packs. Where a pack has as many as a vector has 128
bits, each has 128 bits of every sum, so that a row takes one sum for all of them, of which four
lanes are to be added and not all. A row is repeated for that, which loading does.
"""

# mypy: disable-error-code="no-untyped-call,untyped-decorator"
# Numba's internals have no types.

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from edgellm.runtime import cpu
from edgellm.runtime.kernels.simd._lane_sums import sum_four, sum_fours
from edgellm.runtime.kernels.simd._unit import (
    BLOCK,
    INT8,
    INT64,
    Builder,
    Context,
    Intrinsic,
    Type,
    Value,
    Values,
    VectorUnit,
    load_vector,
    move,
    repeat,
    shuffle,
)
from edgellm.runtime.kernels.vector import _nibble_rows
from edgellm.runtime.kernels.vector._attention_tiles import (
    ROW_BLOCK,
    ROWS,
    add_dot,
    row_pointers,
    zeros,
)
from edgellm.runtime.kernels.vector._cache_codes import CacheCodes
from edgellm.runtime.kernels.vector._read_ahead import NEAR
from edgellm.runtime.kernels.vector._tiles import bytes_of, open_arrays, prefetch

CHUNK = 16
"""Bytes of a row that are multiplied with a pack at once: what a shuffle has a part of."""
AHEAD = {"znver5": 12}.get(cpu.host().name, 32)
"""Rows that prefetches are ahead; 16 and 64 are as good as 32. (Into the first cache of Zen 5: 1.01
to 1.05 of the time with 8, 1.02 to 1.07 with 20 or 32.)"""


def most_in_pack(unit: VectorUnit) -> int:
    """Return how many queries of a pack the registers have room for."""
    return 4 if unit.tokens >= 4 else 2


def in_chunks(unit: VectorUnit, queries: int) -> bool:
    """Tell whether a pack of so many has CHUNK codes of each query in turn, and not all of one."""
    return unit.adds_fours and 1 < queries == unit.lanes // 4


def score_tile(unit: VectorUnit, queries: int, cached: CacheCodes) -> Intrinsic:
    """Return the intrinsic ``score(packs, starts, key, dots, place)``, for packs of so many.

    A place is (group, groups, own, first, end, length): from which head of the keys on how many
    have ``own`` queries each; the rows, at most ROW_BLOCK; and the end of all rows. Packs are int8
    codes, of each query in turn as ``in_chunks`` tells. For query q of all and row j it writes
    ``starts[4 * slot] + codes[q] . (key[j, its head] + bias)`` to
    ``dots[q * ROW_BLOCK + j - first]``. A slot is the place of a query in the packs, of which the
    last of a head may have more slots than queries; ``starts`` has four equal numbers for each.

    Rows go in fours. Where there are fewer, the last one is taken again, and its scores are written
    behind the last.
    """
    if cached.is_packed:
        dots_of = _nibble_rows.packed_dots if in_chunks(unit, queries) else _nibble_rows.dots
    else:
        dots_of = _packed_dots if in_chunks(unit, queries) else _dots
    per_byte = INT64(cached.per_byte)

    def generate(context: Context, builder: Builder, signature: Type, args: Values) -> Value:
        packs, starts, key, dots = open_arrays(context, builder, signature, args[:4])
        group, groups, own, first, end, length = cgutils.unpack_tuple(builder, args[4])
        head_bytes = cgutils.unpack_tuple(builder, key.shape)[2]
        columns = builder.mul(head_bytes, per_byte)
        stride = cgutils.unpack_tuple(builder, key.strides)[0]
        count = builder.udiv(builder.add(own, INT64(queries - 1)), INT64(queries))
        with cgutils.for_range_slice(builder, first, end, INT64(ROWS), INT64) as (j, _):
            rows = row_pointers(builder, key, group, (j, end))
            left = builder.icmp_signed("<", builder.add(j, INT64(AHEAD)), length)
            ahead = builder.select(left, builder.mul(stride, INT64(AHEAD)), INT64(0))
            out = builder.gep(dots.data, [builder.sub(j, first)])
            with cgutils.for_range(builder, groups) as in_row:
                head = builder.mul(in_row.index, head_bytes)
                here = [move(builder, row, head) for row in rows]
                skipped = builder.mul(head, INT64(ROWS - 1)) if cached.is_packed else INT64(0)
                coming = builder.add(ahead, skipped)
                with cgutils.for_range(builder, count) as in_group:
                    before = builder.mul(in_group.index, INT64(queries))
                    slot = builder.mul(builder.mul(in_row.index, count), INT64(queries))
                    slot = builder.add(slot, before)
                    codes = move(builder, bytes_of(builder, packs), builder.mul(slot, columns))
                    begin = builder.gep(starts.data, [builder.mul(slot, INT64(4))])
                    sums = dots_of(builder, unit, (codes, begin, queries, columns), here, coming)
                    query = builder.add(builder.mul(in_row.index, own), before)
                    at = builder.gep(out, [builder.mul(query, INT64(ROW_BLOCK))])
                    _store(builder, sums, at, builder.sub(own, before))
        return context.get_dummy_value()

    @intrinsic
    def score(
        _: Context, packs: Type, starts: Type, key: Type, dots: Type, place: Type
    ) -> Intrinsic:
        return types.void(packs, starts, key, dots, place), generate

    return score


def _store(builder: Builder, sums: Values, at: Value, count: Value) -> None:
    """Store four sums of each of the first ``count`` queries, at least one."""
    for q, four in enumerate(sums):
        place = builder.bitcast(builder.gep(at, [INT64(q * ROW_BLOCK)]), four.type.as_pointer())
        if q == 0:
            builder.store(four, place, align=4)
            continue
        with builder.if_then(builder.icmp_signed("<", INT64(q), count)):
            builder.store(four, place, align=4)


def _dots(
    builder: Builder,
    unit: VectorUnit,
    pack: tuple[Value, Value, int, Value],
    rows: Values,
    ahead: Value,
) -> list[Value]:
    """Return the sums of each query with four rows.

    A pack is its codes, its starts, how many queries it has, and how many columns.
    """
    codes, starts, count, columns = pack
    totals = zeros(builder, unit, count * ROWS)
    xs = [move(builder, codes, builder.mul(columns, INT64(q))) for q in range(count)]
    with cgutils.for_range(builder, builder.udiv(columns, INT64(BLOCK))) as loop:
        column = builder.mul(loop.index, INT64(BLOCK))
        places = [move(builder, row, column) for row in rows]
        for place in places:
            prefetch(builder, move(builder, place, ahead), NEAR)
        for begin in range(0, BLOCK, unit.int8_columns):
            at = builder.add(column, INT64(begin))
            here = [unit.int8_vector(builder, move(builder, x, at)) for x in xs]
            for n, place in enumerate(places):
                weights = unit.int8_vector(builder, move(builder, place, INT64(begin)))
                for q, x in enumerate(here):
                    add_dot(builder, unit, totals[q * ROWS + n], ([weights], [x]))
    results = []
    for q in range(count):
        four = [builder.load(total) for total in totals[q * ROWS : (q + 1) * ROWS]]
        sums = sum_four(builder, four)
        start = load_vector(builder, builder.gep(starts, [INT64(4 * q)]), sums.type)
        results.append(builder.add(sums, start))
    return results


def _packed_dots(
    builder: Builder,
    unit: VectorUnit,
    pack: tuple[Value, Value, int, Value],
    rows: Values,
    ahead: Value,
) -> list[Value]:
    """Return the same where each query has 128 bits of a vector."""
    codes, starts, count, columns = pack
    narrow = ir.VectorType(INT8, CHUNK)
    totals = zeros(builder, unit, ROWS)
    with cgutils.for_range(builder, builder.udiv(columns, INT64(BLOCK))) as loop:
        column = builder.mul(loop.index, INT64(BLOCK))
        places = [move(builder, row, column) for row in rows]
        for n, place in enumerate(places):  # a block has as many chunks as there are rows
            begin = INT64(n * CHUNK)
            at = builder.mul(builder.add(column, begin), INT64(count))
            x = load_vector(builder, move(builder, codes, at), unit.bytes_type)
            prefetch(builder, move(builder, place, ahead), NEAR)
            for row, total in zip(places, totals, strict=True):
                chunk = load_vector(builder, move(builder, row, begin), narrow)
                (weights,) = unit.biased(builder, [repeat(builder, chunk, count)])
                builder.store(unit.dot_lanes(builder, builder.load(total), weights, x), total)
    sums = sum_fours(builder, [builder.load(total) for total in totals])
    sums = builder.add(sums, load_vector(builder, starts, sums.type))
    return [shuffle(builder, sums, sums, range(4 * q, 4 * q + 4)) for q in range(count)]
