"""The two inner sums of attention, as LLVM, for some queries at once over rows of the cache.

Both multiply bytes, four neighbours into each int32 lane (``VectorUnit.dot_bytes``), and read the
rows of one head of keys or values, (L, H, D) with D a multiple of 64: what several queries share is
loaded once. A place is (group, first, end, origin, width, ahead): the head; the rows; which row is
number 0 of arrays with an element for each row, and their length; and how many bytes behind a row
the one is that will be wanted soon.

Rows go in fours. Where there are fewer, the last one is taken again: its scores are written behind
the last, and its weights there have to be 0.
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
    load_vector,
    move,
    shuffle,
    sum_four,
)
from edgellm.runtime.kernels.vector._tiles import bytes_of, open_arrays, prefetch

ROWS = 4
"""Rows in a step: as many as a lane multiplies bytes."""
PARTS = 2
"""A weight is two bytes, ``256 * high + low``, both signed."""


def score_tile(unit: VectorUnit, queries: int) -> Intrinsic:
    """Return the intrinsic ``score(codes, key, dots, place)``.

    For query q and row j it writes ``codes[q] . (key[j, group] + byte_bias)`` to
    ``dots[q * width + j - origin]``. The queries' int8 codes follow one another.
    """

    def generate(context: Context, builder: Builder, signature: Type, args: Values) -> Value:
        codes, key, dots = open_arrays(context, builder, signature, args[:3])
        group, first, end, origin, width, ahead = cgutils.unpack_tuple(builder, args[3])
        columns = cgutils.unpack_tuple(builder, key.shape)[2]
        xs = [
            move(builder, bytes_of(builder, codes), builder.mul(columns, INT64(q)))
            for q in range(queries)
        ]
        blocks = builder.udiv(columns, INT64(BLOCK))
        with cgutils.for_range_slice(builder, first, end, INT64(ROWS), INT64) as (j, _):
            keys = _row_pointers(builder, key, group, (j, end))
            totals = _zeros(builder, unit, queries * ROWS)
            with cgutils.for_range(builder, blocks) as loop:
                column = builder.mul(loop.index, INT64(BLOCK))
                here = [unit.int8_vectors(builder, move(builder, x, column)) for x in xs]
                for n, row in enumerate(keys):
                    place = move(builder, row, column)
                    prefetch(builder, move(builder, place, ahead))
                    weights = unit.int8_vectors(builder, place)
                    for q, x in enumerate(here):
                        _add_dot(builder, unit, totals[q * ROWS + n], (weights, x))
            for q in range(queries):
                four = [builder.load(total) for total in totals[q * ROWS : (q + 1) * ROWS]]
                sums = sum_four(builder, four)
                at = builder.add(builder.mul(width, INT64(q)), builder.sub(j, origin))
                out = builder.bitcast(builder.gep(dots.data, [at]), sums.type.as_pointer())
                builder.store(sums, out, align=4)
        return context.get_dummy_value()

    @intrinsic
    def score(_: Context, codes: Type, key: Type, dots: Type, place: Type) -> Intrinsic:
        return types.void(codes, key, dots, place), generate

    return score


def mix_tile(unit: VectorUnit, queries: int) -> Intrinsic:
    """Return the intrinsic ``mix(parts, value, totals, place)``.

    For each of the parts p of the weights of query q, ``parts[(2 * q + p) * width + j - origin]``,
    it adds the rows ``value[j, group] + byte_bias`` times them to the D totals from
    ``totals[(2 * q + p) * D]``; these are ordered as ``settle_tile`` expects.
    """
    chunk = 4 * unit.lanes

    def generate(context: Context, builder: Builder, signature: Type, args: Values) -> Value:
        parts, value, totals = open_arrays(context, builder, signature, args[:3])
        group, first, end, origin, width, ahead = cgutils.unpack_tuple(builder, args[3])
        columns = cgutils.unpack_tuple(builder, value.shape)[2]
        numbers = range(queries * PARTS)
        weights = [
            move(builder, bytes_of(builder, parts), builder.mul(width, INT64(n))) for n in numbers
        ]
        with cgutils.for_range(builder, builder.udiv(columns, INT64(chunk))) as loop:
            column = builder.mul(loop.index, INT64(chunk))
            for half in range(2):  # of the columns: the sums of all would not stay in registers
                sums = _zeros(builder, unit, 2 * len(numbers))
                with cgutils.for_range_slice(builder, first, end, INT64(ROWS), INT64) as (j, _):
                    rows = [
                        move(builder, row, column)
                        for row in _row_pointers(builder, value, group, (j, end))
                    ]
                    for row in rows[half * 2 : half * 2 + 2]:
                        prefetch(builder, move(builder, row, ahead))
                    fours = _interleave(builder, unit, rows, half)
                    for n in numbers:
                        at = move(builder, weights[n], builder.sub(j, origin))
                        pattern = builder.load(builder.bitcast(at, INT32.as_pointer()), align=1)
                        x = builder.bitcast(
                            _splat(builder, pattern, unit.totals_type), unit.bytes_type
                        )
                        for i, four in enumerate(fours):
                            _add_dot(builder, unit, sums[2 * n + i], ([four], [x]))
                for n in numbers:
                    for i in range(2):
                        begin = builder.add(builder.mul(columns, INT64(n)), column)
                        at = builder.add(begin, INT64((2 * half + i) * unit.lanes))
                        _add_to(builder, totals, at, builder.load(sums[2 * n + i]))
        return context.get_dummy_value()

    @intrinsic
    def mix(_: Context, parts: Type, value: Type, totals: Type, place: Type) -> Intrinsic:
        return types.void(parts, value, totals, place), generate

    return mix


def settle_tile(unit: VectorUnit) -> Intrinsic:
    """Return the intrinsic ``settle(totals, count)``: put that many sums of ``mix`` in order.

    Rows are interleaved in each 128 bits, so that lane 4l+i of vector v of a chunk of four vectors
    is column 16l + 4v + i.
    """
    lanes = unit.lanes
    order = [
        v * lanes + 4 * block + i for block in range(lanes // 4) for v in range(4) for i in range(4)
    ]

    def generate(context: Context, builder: Builder, signature: Type, args: Values) -> Value:
        (totals,) = open_arrays(context, builder, signature, args[:1])
        kind = ir.VectorType(INT32, 4 * lanes)
        with cgutils.for_range(builder, builder.udiv(args[1], INT64(4 * lanes))) as loop:
            at = builder.mul(loop.index, INT64(4 * lanes))
            pointer = builder.bitcast(builder.gep(totals.data, [at]), kind.as_pointer())
            chunk = builder.load(pointer, align=4)
            builder.store(shuffle(builder, chunk, chunk, order), pointer, align=4)
        return context.get_dummy_value()

    @intrinsic
    def settle(_: Context, totals: Type, count: Type) -> Intrinsic:
        return types.void(totals, count), generate

    return settle


def _row_pointers(builder: Builder, cache: Value, group: Value, rows: Values) -> list[Value]:
    """Return byte pointers to ROWS rows of one head from ``rows[0]``; none is past ``rows[1]``."""
    row_bytes, head_bytes, _ = cgutils.unpack_tuple(builder, cache.strides)
    head = move(builder, bytes_of(builder, cache), builder.mul(group, head_bytes))
    first, end = rows
    last = builder.sub(end, INT64(1))
    pointers = []
    for i in range(ROWS):
        wanted = builder.add(first, INT64(i))
        row = builder.select(builder.icmp_signed("<", wanted, last), wanted, last)
        pointers.append(move(builder, head, builder.mul(row, row_bytes)))
    return pointers


def _zeros(builder: Builder, unit: VectorUnit, count: int) -> list[Value]:
    """Return pointers to zero vectors of sums; LLVM keeps what they point to in registers."""
    pointers = [cgutils.alloca_once(builder, unit.totals_type) for _ in range(count)]
    for pointer in pointers:
        builder.store(ir.Constant(unit.totals_type, None), pointer)
    return pointers


def _add_dot(
    builder: Builder, unit: VectorUnit, total: Value, factors: tuple[Values, Values]
) -> None:
    builder.store(unit.dot_bytes(builder, builder.load(total), *factors), total)


def _add_to(builder: Builder, totals: Value, at: Value, sums: Value) -> None:
    pointer = builder.bitcast(builder.gep(totals.data, [at]), sums.type.as_pointer())
    builder.store(builder.add(builder.load(pointer, align=4), sums), pointer, align=4)


def _splat(builder: Builder, value: Value, kind: Type) -> Value:
    """Return a vector of equal elements."""
    first = builder.insert_element(ir.Constant(kind, ir.Undefined), value, INT32(0))
    return shuffle(builder, first, first, [0] * kind.count)


def _interleave(builder: Builder, unit: VectorUnit, rows: Values, half: int) -> list[Value]:
    """Return two vectors whose lanes have a byte of each of four rows, of the same column.

    They hold the first or the second eight columns of each 128 bits.
    """
    size = 4 * unit.lanes
    a, b, c, d = (load_vector(builder, row, unit.bytes_type) for row in rows)
    begin = 8 * half
    bytes_ = [
        s + begin + i + size * k for s in range(0, size, 16) for i in range(8) for k in (0, 1)
    ]
    ab, cd = shuffle(builder, a, b, bytes_), shuffle(builder, c, d, bytes_)
    words = ir.VectorType(ir.IntType(16), size // 2)
    ab, cd = builder.bitcast(ab, words), builder.bitcast(cd, words)
    count = size // 2
    return [
        builder.bitcast(
            shuffle(
                builder,
                ab,
                cd,
                [
                    s + part + i + count * k
                    for s in range(0, count, 8)
                    for i in range(4)
                    for k in (0, 1)
                ],
            ),
            unit.bytes_type,
        )
        for part in (0, 4)
    ]
