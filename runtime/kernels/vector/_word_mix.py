"""The second inner sum of attention where bytes are not multiplied in fours, as LLVM.

Values are widened to 16 bits, which their weights have, and two rows are added at a time: see
``VectorUnit.add_row_pair``. What several queries share is read and widened once.
"""

# mypy: disable-error-code="no-untyped-call,untyped-decorator"
# Numba's internals have no types.

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from edgellm.runtime.kernels.simd._unit import (
    BLOCK,
    INT32,
    INT64,
    Builder,
    Context,
    Intrinsic,
    Type,
    Value,
    Values,
    VectorUnit,
    move,
)
from edgellm.runtime.kernels.vector._attention_tiles import (
    ROW_BLOCK,
    ROWS,
    row_pointers,
    rows_from,
    zeros,
)
from edgellm.runtime.kernels.vector._cache_codes import CacheCodes
from edgellm.runtime.kernels.vector._read_ahead import Lines
from edgellm.runtime.kernels.vector._tiles import bytes_of, open_arrays
from edgellm.runtime.kernels.vector._value_pieces import words_at

COLUMNS = 16
"""That are added at once for MOST queries; for fewer more, so that as many sums are kept."""
MOST = 4
"""Queries whose sums of so many columns stay in registers."""
WORD_BYTES = 2


def mix_words_tile(unit: VectorUnit, queries: int, cached: CacheCodes) -> Intrinsic:
    """Return the intrinsic ``mix(parts, value, totals, lines, place)``.

    A place is (group, first, end, run): the head, the rows, at most ROW_BLOCK, and how many bytes
    of a row are read. The weights of query q are the words from ``parts[2 * q * ROW_BLOCK]``, of
    which those behind the last row are 0. It adds the rows ``value[j, group]``, of nibbles their
    codes + 8, times them to the D totals, int64, from ``totals[q * D]``. Meanwhile it begins to
    read a line a head, byte of its rows and ROW_BLOCK rows, as ``expect`` does.
    """
    width = COLUMNS * MOST // queries
    step = BLOCK if cached.is_packed else width
    coming = min(width, step // cached.per_byte) // COLUMNS
    per_byte = INT64(cached.per_byte)

    def generate(context: Context, builder: Builder, signature: Type, args: Values) -> Value:
        parts, value, totals, ahead = open_arrays(context, builder, signature, args[:4])
        group, first, end, run = cgutils.unpack_tuple(builder, args[4])
        columns = builder.mul(cgutils.unpack_tuple(builder, value.shape)[2], per_byte)
        lines = Lines(builder, value, ahead, run)
        row_weights = INT64(WORD_BYTES * ROW_BLOCK)
        weights = [
            move(builder, bytes_of(builder, parts), builder.mul(row_weights, INT64(q)))
            for q in range(queries)
        ]
        whole = builder.add(first, builder.and_(builder.sub(end, first), INT64(-ROWS)))

        def add_width(column: Value, part: int) -> None:
            """Add as many columns as there are sums for, from ``column + part`` on."""
            sums = [zeros(builder, unit, width // unit.lanes) for _ in range(queries)]
            columns_of = column, part, cached
            with cgutils.for_range_slice(builder, first, whole, INT64(ROWS), INT64) as (j, _):
                for _ in range(coming if part < step // cached.per_byte else 0):
                    lines.prefetch(builder)
                rows = rows_from(builder, value, group, j)
                own = [_word(builder, weight, j, first) for weight in weights]
                _add_rows(builder, unit, sums, (rows, columns_of), own)
            with builder.if_then(builder.icmp_signed("<", whole, end)):
                rows = row_pointers(builder, value, group, (whole, end))
                own = [_word(builder, weight, whole, first) for weight in weights]
                _add_rows(builder, unit, sums, (rows, columns_of), own)
            for q, own in enumerate(sums):
                place = builder.add(builder.mul(columns, INT64(q)), column)
                place = builder.add(place, INT64(part))
                _add_wide(builder, unit, (totals, place), [builder.load(part) for part in own])

        with cgutils.for_range(builder, builder.udiv(columns, INT64(step))) as loop:
            for part in range(0, step, width):
                add_width(builder.mul(loop.index, INT64(step)), part)
        lines.save(builder)
        return context.get_dummy_value()

    @intrinsic
    def mix(
        _: Context, parts: Type, value: Type, totals: Type, lines: Type, place: Type
    ) -> Intrinsic:
        return types.void(parts, value, totals, lines, place), generate

    return mix


def _word(builder: Builder, weights: Value, j: Value, first: Value) -> Value:
    return move(builder, weights, builder.mul(builder.sub(j, first), INT64(WORD_BYTES)))


def _add_rows(
    builder: Builder,
    unit: VectorUnit,
    sums: list[list[Value]],
    source: tuple[Values, tuple[Value, int, CacheCodes]],
    weights: Values,
) -> None:
    """Add columns of ROWS rows times the weights of each query, which begin at pointers."""
    rows, (column, first, cached) = source
    size = COLUMNS // unit.lanes
    for i in range(0, ROWS, 2):
        places = [move(builder, own, INT64(WORD_BYTES * i)) for own in weights]
        words = [
            builder.load(builder.bitcast(place, INT32.as_pointer()), align=1) for place in places
        ]
        for part in range(len(sums[0]) // size):
            at = first + part * COLUMNS
            pair = [words_at(builder, row, column, at, cached) for row in rows[i : i + 2]]
            own = [some[part * size : (part + 1) * size] for some in sums]
            unit.add_row_pair(builder, own, pair, words)


def _add_wide(builder: Builder, unit: VectorUnit, place: tuple[Value, Value], sums: Values) -> None:
    """Add the sums of columns to the int64 of an array from an index on."""
    totals, at = place
    size = COLUMNS // unit.lanes
    parts = [unit.settle_row_pair(builder, sums[i : i + size]) for i in range(0, len(sums), size)]
    for i, part in enumerate(part for own in parts for part in own):
        wide = ir.VectorType(INT64, part.type.count)
        begin = builder.gep(totals.data, [builder.add(at, INT64(i * part.type.count))])
        pointer = builder.bitcast(begin, wide.as_pointer())
        total = builder.add(builder.load(pointer, align=8), builder.sext(part, wide))
        builder.store(total, pointer, align=8)
