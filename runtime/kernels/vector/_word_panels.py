"""Products of rows of int16 and panels of them, as LLVM, where pairs of words are multiplied.

A panel has a step for every two elements of a row: for each of COLUMNS outputs the two words that
they are multiplied with, side by side. So a lane is an output, and no sum is over lanes; bytes are
widened once for all rows.
"""

# mypy: disable-error-code="no-untyped-call,untyped-decorator"
# Numba's internals have no types.

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from edgellm.runtime.kernels._scalar import Int
from edgellm.runtime.kernels.simd._unit import (
    INT8,
    INT16,
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
    shuffle,
    splat_value,
)
from edgellm.runtime.kernels.vector._attention_tiles import zeros
from edgellm.runtime.kernels.vector._tiles import bytes_of, matrix_rows, open_arrays, row_stride

VECTORS = 2
"""Of a step."""
COLUMNS = 16
"""Outputs of a panel: VECTORS of 8 lanes."""
PAIR = 2
"""Words of a lane."""
WORD_BYTES = 2
STEP_BYTES = COLUMNS * PAIR * WORD_BYTES
TOGETHER = 4
"""Queries of a tile: its sums stay in registers."""
SPAN = 512
"""Rows of values whose sums fit in 32 bits: 512 * 32767 * 128 < 2^31."""
PANEL_BYTES = SPAN // PAIR * STEP_BYTES
"""Room for a panel of so many rows of values, or of keys of up to 512 columns."""


def steps_of(rows: Int) -> Int:
    """Return how many steps a panel of so many rows has."""
    return max(rows + PAIR - 1, 0) // PAIR


def pair_tile(unit: VectorUnit, rows: int, *, adds: bool) -> Intrinsic:
    """Return ``multiply(x, panel, out, place)``: the products of some rows of x and a panel.

    A place is (row, at, steps, column): the first row of x and of out, the byte of rows of x where
    the int16 begin, how many steps, and where the outputs begin. It writes int32 or, with ``adds``,
    adds to int32 or int64.
    """
    words = ir.VectorType(INT16, PAIR * unit.lanes)

    def generate(context: Context, builder: Builder, signature: Type, args: Values) -> Value:
        x, panel, out = open_arrays(context, builder, signature, args[:3])
        row, at, steps, column = cgutils.unpack_tuple(builder, args[3])
        own = [move(builder, one, at) for one in matrix_rows(builder, x, row, rows)]
        sums = [zeros(builder, unit, VECTORS) for _ in range(rows)]
        with cgutils.for_range(builder, steps) as loop:
            step = move(
                builder, bytes_of(builder, panel), builder.mul(loop.index, INT64(STEP_BYTES))
            )
            pairs = [
                load_vector(builder, move(builder, step, INT64(i * 4 * unit.lanes)), words)
                for i in range(VECTORS)
            ]
            offset = builder.mul(loop.index, INT64(PAIR * WORD_BYTES))
            for totals, begin in zip(sums, own, strict=True):
                place = builder.bitcast(move(builder, begin, offset), INT32.as_pointer())
                pair = splat_value(builder, builder.load(place, align=1), unit.lanes)
                factor = builder.bitcast(pair, words)
                for total, pair in zip(totals, pairs, strict=True):
                    builder.store(unit.dot_int16(builder, builder.load(total), pair, factor), total)
        for totals, begin in zip(sums, matrix_rows(builder, out, row, rows), strict=True):
            for i, total in enumerate(totals):
                first = builder.add(column, INT64(i * unit.lanes))
                number = signature.args[2].dtype
                _put(builder, builder.load(total), (begin, first), number, adds=adds)
        return context.get_dummy_value()

    @intrinsic
    def multiply(_: Context, x: Type, panel: Type, out: Type, place: Type) -> Intrinsic:
        return types.void(x, panel, out, place), generate

    return multiply


def _put(
    builder: Builder, sums: Value, place: tuple[Value, Value], number: Type, *, adds: bool
) -> None:
    """Write int32 to a row from a column on, or add them to its numbers, of 32 or 64 bits."""
    row, column = place
    kind = ir.VectorType(ir.IntType(number.bitwidth), sums.type.count)
    at = move(builder, row, builder.mul(column, INT64(number.bitwidth // 8)))
    pointer = builder.bitcast(at, kind.as_pointer())
    if adds:
        sums = builder.add(builder.load(pointer, align=4), builder.sext(sums, kind))
    builder.store(sums, pointer, align=4)


def row_filler(unit: VectorUnit) -> Intrinsic:
    """Return ``fill(rows, panel, n)``: COLUMNS rows from n on, whose products are outputs.

    They are int8 or int16. Behind the last row it is taken again. Rows are whole multiples of
    COLUMNS.
    """
    lanes = unit.lanes

    def generate(context: Context, builder: Builder, signature: Type, args: Values) -> Value:
        rows, panel = open_arrays(context, builder, signature, args[:2])
        kind = ir.IntType(signature.args[0].dtype.bitwidth)
        width = cgutils.unpack_tuple(builder, rows.shape)[1]
        places = [_row_at(builder, rows, builder.add(args[2], INT64(i))) for i in range(COLUMNS)]
        with cgutils.for_range(builder, builder.udiv(width, INT64(PAIR * lanes))) as loop:
            column = builder.mul(loop.index, INT64(PAIR * lanes))
            step = builder.mul(column, INT64(STEP_BYTES // PAIR))
            target = move(builder, bytes_of(builder, panel), step)
            offset = builder.mul(column, INT64(kind.width // 8))
            for i in range(VECTORS):
                own = [
                    _load_words(builder, unit, move(builder, place, offset), kind)
                    for place in places[i * lanes : (i + 1) * lanes]
                ]
                turned = [builder.bitcast(vector, unit.totals_type) for vector in own]
                for number, pairs in enumerate(transpose(builder, unit, turned)):
                    at = number * STEP_BYTES + i * 4 * lanes
                    _store(builder, pairs, move(builder, target, INT64(at)))
        return context.get_dummy_value()

    @intrinsic
    def fill(_: Context, rows: Type, panel: Type, n: Type) -> Intrinsic:
        return types.void(rows, panel, n), generate

    return fill


def column_filler(unit: VectorUnit) -> Intrinsic:
    """Return ``fill(rows, panel, place)``: COLUMNS columns of int8, whose sums are outputs.

    A place is (first, steps, column): so many pairs of rows from the first on. Behind the last row
    it is taken again.
    """
    count = PAIR * unit.lanes
    orders = [
        [side + i for i in range(half, half + unit.lanes) for side in (0, count)]
        for half in (0, unit.lanes)
    ]

    def generate(context: Context, builder: Builder, signature: Type, args: Values) -> Value:
        rows, panel = open_arrays(context, builder, signature, args[:2])
        first, steps, column = cgutils.unpack_tuple(builder, args[2])
        with cgutils.for_range(builder, steps) as loop:
            row = builder.add(first, builder.mul(loop.index, INT64(PAIR)))
            both = [
                _load_words(
                    builder,
                    unit,
                    move(builder, _row_at(builder, rows, builder.add(row, INT64(i))), column),
                    INT8,
                )
                for i in range(PAIR)
            ]
            step = builder.mul(loop.index, INT64(STEP_BYTES))
            target = move(builder, bytes_of(builder, panel), step)
            for i, order in enumerate(orders):
                place = move(builder, target, INT64(i * 4 * unit.lanes))
                _store(builder, shuffle(builder, *both, order), place)
        return context.get_dummy_value()

    @intrinsic
    def fill(_: Context, rows: Type, panel: Type, place: Type) -> Intrinsic:
        return types.void(rows, panel, place), generate

    return fill


def _row_at(builder: Builder, rows: Value, wanted: Value) -> Value:
    """Return a byte pointer to a row, or to the last one."""
    last = builder.sub(cgutils.unpack_tuple(builder, rows.shape)[0], INT64(1))
    row = builder.select(builder.icmp_signed("<", wanted, last), wanted, last)
    return move(builder, bytes_of(builder, rows), builder.mul(row, row_stride(builder, rows)))


def _load_words(builder: Builder, unit: VectorUnit, place: Value, kind: Type) -> Value:
    """Load int8 or int16 as int16, a vector of them."""
    numbers = load_vector(builder, place, ir.VectorType(kind, PAIR * unit.lanes))
    return builder.sext(numbers, ir.VectorType(INT16, PAIR * unit.lanes))


def transpose(builder: Builder, unit: VectorUnit, vectors: Values) -> list[Value]:
    """Return lane i of each vector, as vector i, of as many vectors as there are lanes, 8.

    Quarters of four vectors come first, none of whose lanes leaves its 128 bits: that is faster.
    """
    lanes, size = unit.lanes, unit.lanes // 2
    orders = [
        [part + i + side for part in (0, size) for i in (start, start + 1) for side in (0, lanes)]
        for start in (0, 2)
    ]
    halves = []
    for begin in (0, size):
        four = list(vectors[begin : begin + size])
        for _ in range(2):
            four = [
                shuffle(builder, four[i], four[i + 2], order) for i in range(2) for order in orders
            ]
        halves.append(four)
    sides = [
        [side + i for side in (0, lanes) for i in range(start, start + size)] for start in (0, size)
    ]
    return [shuffle(builder, *pair, side) for side in sides for pair in zip(*halves, strict=True)]


def _store(builder: Builder, vector: Value, place: Value) -> None:
    builder.store(vector, builder.bitcast(place, vector.type.as_pointer()), align=4)
