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

from edgellm.runtime.kernels.attention import MAX_HEAD_DIM
from edgellm.runtime.kernels.simd._unit import (
    BLOCK,
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
    repeat,
    shuffle,
    splat_value,
    sum_four,
    sum_fours,
)
from edgellm.runtime.kernels.vector._tiles import LINE_BYTES, bytes_of, open_arrays, prefetch

ROWS = 4
"""Rows in a step: as many as a lane multiplies bytes."""
ROW_BLOCK = 64
"""Rows of the cache that are read for all heads before the next."""
CHUNK = 16
"""Bytes of a row that are multiplied with several queries at once: what a shuffle has a part of."""
PARTS = 2
"""A weight is two bytes, ``256 * high + low``, both signed."""


class _Lines:
    """Cache lines that are prefetched one after the other: of a row of a head, then of the next.

    In this order one thread of a server of 2023 with AVX-512 takes some 600 us a layer for 4096
    positions from memory, and 645 where four rows take turns.
    """

    def __init__(
        self, builder: Builder, cache: Value, group: Value, row: Value, ahead: Value
    ) -> None:
        """Begin ``ahead`` bytes behind a row of a group of the cache."""
        row_bytes, head_bytes, _ = cgutils.unpack_tuple(builder, cache.strides)
        self._columns = cgutils.unpack_tuple(builder, cache.shape)[2]
        self._gap = builder.sub(row_bytes, self._columns)
        begin = builder.add(builder.mul(group, head_bytes), builder.mul(row, row_bytes))
        self._data = bytes_of(builder, cache)
        self._at = cgutils.alloca_once_value(builder, builder.add(begin, ahead))
        self._left = cgutils.alloca_once_value(builder, self._columns)

    def prefetch(self, builder: Builder) -> None:
        """Begin to read the next line."""
        at, left = builder.load(self._at), builder.load(self._left)
        prefetch(builder, move(builder, self._data, at))
        left = builder.sub(left, INT64(LINE_BYTES))
        is_last = builder.icmp_signed("<=", left, INT64(0))
        after = builder.select(is_last, self._gap, INT64(0))
        builder.store(builder.add(builder.add(at, INT64(LINE_BYTES)), after), self._at)
        builder.store(builder.select(is_last, self._columns, left), self._left)


def score_tile(unit: VectorUnit, queries: int) -> Intrinsic:
    """Return the intrinsic ``score(codes, key, dots, place)``.

    For query q and row j it writes ``codes[q] . (key[j, group] + byte_bias)`` to
    ``dots[q * width + j - origin]``. The queries' int8 codes follow one another.
    """
    if 1 < queries == unit.lanes // 4:
        return _packed_score_tile(unit)

    def generate(context: Context, builder: Builder, signature: Type, args: Values) -> Value:
        codes, key, dots = open_arrays(context, builder, signature, args[:3])
        group, first, end, origin, width, ahead = cgutils.unpack_tuple(builder, args[3])
        columns = cgutils.unpack_tuple(builder, key.shape)[2]
        xs = [
            move(builder, bytes_of(builder, codes), builder.mul(columns, INT64(q)))
            for q in range(queries)
        ]
        blocks = builder.udiv(columns, INT64(BLOCK))
        lines = _Lines(builder, key, group, first, ahead)
        with cgutils.for_range_slice(builder, first, end, INT64(ROWS), INT64) as (j, _):
            keys = _row_pointers(builder, key, group, (j, end))
            totals = _zeros(builder, unit, queries * ROWS)
            with cgutils.for_range(builder, blocks) as loop:
                column = builder.mul(loop.index, INT64(BLOCK))
                here = [unit.int8_vectors(builder, move(builder, x, column)) for x in xs]
                for n, row in enumerate(keys):
                    lines.prefetch(builder)
                    place = move(builder, row, column)
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


def _packed_score_tile(unit: VectorUnit) -> Intrinsic:
    """Return the intrinsic of ``score_tile`` for as many queries as a vector has 128 bits.

    Each query has 128 bits of every sum, so that a row takes one sum for all of them, of which four
    are to be added and not all. A row has to be repeated for that, which loading does. At most
    ROW_BLOCK rows; what is added to their bytes is added once.
    """
    queries = unit.lanes // 4

    def generate(context: Context, builder: Builder, signature: Type, args: Values) -> Value:
        codes, key, dots = open_arrays(context, builder, signature, args[:3])
        group, first, end, origin, width, ahead = cgutils.unpack_tuple(builder, args[3])
        columns = cgutils.unpack_tuple(builder, key.shape)[2]
        packed = _scratch(builder, queries * MAX_HEAD_DIM)
        copied = _scratch(builder, ROW_BLOCK * MAX_HEAD_DIM)
        lines = _Lines(builder, key, group, first, ahead)
        _pack_queries(builder, bytes_of(builder, codes), packed, (INT64(queries), columns))
        with cgutils.for_range_slice(builder, first, end, INT64(ROWS), INT64) as (j, _):
            place = move(builder, copied, builder.mul(builder.sub(j, first), columns))
            _copy_biased(
                builder, unit, _row_pointers(builder, key, group, (j, end)), place, columns
            )
        with cgutils.for_range_slice(builder, first, end, INT64(ROWS), INT64) as (j, _):
            begin = builder.mul(builder.sub(j, first), columns)
            rows = [
                move(builder, copied, builder.add(begin, builder.mul(columns, INT64(n))))
                for n in range(ROWS)
            ]
            totals = _packed_dots(builder, unit, (packed, columns), rows, lines)
            sums = sum_fours(builder, totals)
            for q in range(queries):
                part = shuffle(builder, sums, sums, range(4 * q, 4 * q + 4))
                at = builder.add(builder.mul(width, INT64(q)), builder.sub(j, origin))
                out = builder.bitcast(builder.gep(dots.data, [at]), part.type.as_pointer())
                builder.store(part, out, align=4)
        return context.get_dummy_value()

    @intrinsic
    def score(_: Context, codes: Type, key: Type, dots: Type, place: Type) -> Intrinsic:
        return types.void(codes, key, dots, place), generate

    return score


def _packed_dots(
    builder: Builder, unit: VectorUnit, queries: tuple[Value, Value], rows: Values, lines: _Lines
) -> list[Value]:
    """Return the sums of each row with all queries, which are packed, and as long as said."""
    packed, columns = queries
    narrow = ir.VectorType(INT8, CHUNK)
    totals = _zeros(builder, unit, ROWS)
    with cgutils.for_range(builder, builder.udiv(columns, INT64(BLOCK))) as loop:
        column = builder.mul(loop.index, INT64(BLOCK))
        for _ in rows:
            lines.prefetch(builder)
        for begin in range(0, BLOCK, CHUNK):
            at = builder.add(column, INT64(begin))
            own = move(builder, packed, builder.mul(at, INT64(unit.lanes // 4)))
            x = load_vector(builder, own, unit.bytes_type)
            for row, total in zip(rows, totals, strict=True):
                chunk = load_vector(builder, move(builder, row, at), narrow)
                weights = repeat(builder, chunk, unit.lanes // 4)
                builder.store(unit.dot_lanes(builder, builder.load(total), weights, x), total)
    return [builder.load(total) for total in totals]


def _pack_queries(
    builder: Builder, codes: Value, packed: Value, sizes: tuple[Value, Value]
) -> None:
    """Write CHUNK codes of each query, then the next of each."""
    kind = ir.VectorType(INT8, CHUNK).as_pointer()
    queries, columns = sizes
    with cgutils.for_range(builder, builder.udiv(columns, INT64(CHUNK))) as loop:
        column = builder.mul(loop.index, INT64(CHUNK))
        for q in range(queries.constant):
            source = move(builder, codes, builder.add(builder.mul(columns, INT64(q)), column))
            place = builder.add(builder.mul(column, queries), INT64(q * CHUNK))
            chunk = load_vector(builder, source, kind.pointee)
            builder.store(chunk, builder.bitcast(move(builder, packed, place), kind), align=1)


def _copy_biased(
    builder: Builder, unit: VectorUnit, rows: Values, place: Value, columns: Value
) -> None:
    """Copy rows as ``dot_lanes`` takes them, one after the other."""
    size = 4 * unit.lanes
    with cgutils.for_range(builder, builder.udiv(columns, INT64(BLOCK))) as loop:
        column = builder.mul(loop.index, INT64(BLOCK))
        for n, row in enumerate(rows):
            vectors = unit.biased(builder, unit.byte_vectors(builder, move(builder, row, column)))
            begin = builder.add(builder.mul(columns, INT64(n)), column)
            for i, vector in enumerate(vectors):
                at = move(builder, place, builder.add(begin, INT64(i * size)))
                builder.store(vector, builder.bitcast(at, vector.type.as_pointer()), align=1)


def _scratch(builder: Builder, size: int) -> Value:
    """Return a pointer to bytes of the stack, aligned to a cache line."""
    with builder.goto_entry_block():
        memory = builder.alloca(ir.ArrayType(INT8, size))
    memory.align = 64
    return builder.bitcast(memory, INT8.as_pointer())


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
        lines = _Lines(builder, value, group, first, ahead)
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
                    for _ in range(2):
                        lines.prefetch(builder)
                    fours = _interleave(builder, unit, rows, half)
                    for n in numbers:
                        at = move(builder, weights[n], builder.sub(j, origin))
                        pattern = builder.load(builder.bitcast(at, INT32.as_pointer()), align=1)
                        x = builder.bitcast(
                            splat_value(builder, pattern, unit.lanes), unit.bytes_type
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
