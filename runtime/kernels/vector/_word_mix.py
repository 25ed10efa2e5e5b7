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
    INT8,
    INT32,
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
)
from edgellm.runtime.kernels.vector._attention_tiles import (
    ROW_BLOCK,
    ROWS,
    row_pointers,
    rows_from,
    zeros,
)
from edgellm.runtime.kernels.vector._read_ahead import Lines
from edgellm.runtime.kernels.vector._tiles import bytes_of, open_arrays

COLUMNS = 16
"""That are added at once for MOST queries; for fewer more, so that as many sums are kept."""
MOST = 4
"""Queries whose sums of so many columns stay in registers."""
WORD_BYTES = 2


def mix_words_tile(unit: VectorUnit, queries: int) -> Intrinsic:
    """Return the intrinsic ``mix(parts, value, totals, lines, place)``.

    A place is (group, first, end, run): the head, the rows, at most ROW_BLOCK, and how many bytes
    of a row are read. The weights of query q are the words from ``parts[2 * q * ROW_BLOCK]``, of
    which those behind the last row are 0. It adds the rows ``value[j, group]`` times them to the D
    totals, int64, from ``totals[q * D]``. Meanwhile it begins to read a line a head, column and
    ROW_BLOCK rows, as ``expect`` does.
    """
    width = COLUMNS * MOST // queries

    def generate(context: Context, builder: Builder, signature: Type, args: Values) -> Value:
        parts, value, totals, ahead = open_arrays(context, builder, signature, args[:4])
        group, first, end, run = cgutils.unpack_tuple(builder, args[4])
        columns = cgutils.unpack_tuple(builder, value.shape)[2]
        lines = Lines(builder, value, ahead, run)
        row_weights = INT64(WORD_BYTES * ROW_BLOCK)
        weights = [
            move(builder, bytes_of(builder, parts), builder.mul(row_weights, INT64(q)))
            for q in range(queries)
        ]
        whole = builder.add(first, builder.and_(builder.sub(end, first), INT64(-ROWS)))
        with cgutils.for_range(builder, builder.udiv(columns, INT64(width))) as loop:
            column = builder.mul(loop.index, INT64(width))
            sums = [zeros(builder, unit, width // unit.lanes) for _ in range(queries)]
            with cgutils.for_range_slice(builder, first, whole, INT64(ROWS), INT64) as (j, _):
                for _ in range(width // COLUMNS):
                    lines.prefetch(builder)
                rows = [move(builder, row, column) for row in rows_from(builder, value, group, j)]
                _add_rows(
                    builder, unit, sums, rows, [_word(builder, own, j, first) for own in weights]
                )
            with builder.if_then(builder.icmp_signed("<", whole, end)):
                rows = row_pointers(builder, value, group, (whole, end))
                rows = [move(builder, row, column) for row in rows]
                _add_rows(
                    builder,
                    unit,
                    sums,
                    rows,
                    [_word(builder, own, whole, first) for own in weights],
                )
            for q, own in enumerate(sums):
                place = builder.add(builder.mul(columns, INT64(q)), column)
                _add_wide(builder, unit, (totals, place), [builder.load(part) for part in own])
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
    builder: Builder, unit: VectorUnit, sums: list[list[Value]], rows: Values, weights: Values
) -> None:
    """Add ROWS rows times the weights of each query, which begin at pointers."""
    kind = ir.VectorType(INT8, COLUMNS)
    size = COLUMNS // unit.lanes
    for i in range(0, ROWS, 2):
        places = [move(builder, own, INT64(WORD_BYTES * i)) for own in weights]
        words = [
            builder.load(builder.bitcast(place, INT32.as_pointer()), align=1) for place in places
        ]
        for part in range(len(sums[0]) // size):
            begin = INT64(part * COLUMNS)
            pair = [
                load_vector(builder, move(builder, row, begin), kind) for row in rows[i : i + 2]
            ]
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
