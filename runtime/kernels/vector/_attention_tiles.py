"""The second inner sum of attention, as LLVM: values times weights, for some queries at once.

Bytes are multiplied, four neighbours into each int32 lane (``VectorUnit.dot_bytes``), of the rows
of one head of the values, (L, H, D) with D a multiple of 64: what several queries share is loaded
once. Rows go in fours; where there are fewer, the last one is taken again, with a weight of 0.
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
    shuffle,
    splat_value,
)
from edgellm.runtime.kernels.vector._cache_codes import CacheCodes
from edgellm.runtime.kernels.vector._read_ahead import Lines
from edgellm.runtime.kernels.vector._tiles import bytes_of, open_arrays
from edgellm.runtime.kernels.vector._value_pieces import Piece, pieces_of

ROWS = 4
"""Rows in a step: as many as a lane multiplies bytes."""
ROW_BLOCK = 64
"""Rows of the cache that are read for all heads before the next."""
PARTS = 2
"""A weight is two bytes, ``256 * high + low``, both signed."""


def mix_tile(unit: VectorUnit, queries: int, cached: CacheCodes) -> Intrinsic:
    """Return the intrinsic ``mix(parts, value, totals, lines, place)``.

    A place is (group, first, end, run): the head, the rows, at most ROW_BLOCK, and how many bytes
    of a row are read. For each of the parts p of the weights of query q,
    ``parts[(2 * q + p) * ROW_BLOCK + j - first]``, it adds the rows ``value[j, group] + bias``
    times them to the D totals from ``totals[(2 * q + p) * D]``; these are ordered as
    ``settle_tile`` expects. Meanwhile it begins to read ``lines_of_mix`` lines as ``expect`` does.
    """
    chunk = 4 * unit.lanes
    pieces = pieces_of(unit, cached)
    step = len(pieces) * chunk
    numbers = range(queries * PARTS)
    per_byte = INT64(cached.per_byte)

    def generate(context: Context, builder: Builder, signature: Type, args: Values) -> Value:
        parts, value, totals, ahead = open_arrays(context, builder, signature, args[:4])
        group, first, end, run = cgutils.unpack_tuple(builder, args[4])
        columns = builder.mul(cgutils.unpack_tuple(builder, value.shape)[2], per_byte)
        lines = Lines(builder, value, ahead, run)
        weights = [move(builder, bytes_of(builder, parts), INT64(n * ROW_BLOCK)) for n in numbers]

        def add_half(place: Value, column: Value, piece: Piece, half: int) -> None:
            """Add half of the columns of a piece: the sums of all would not stay in registers."""
            sums = zeros(builder, unit, 2 * len(numbers))
            with cgutils.for_range_slice(builder, first, end, INT64(ROWS), INT64) as (j, _):
                rows = row_pointers(builder, value, group, (j, end))
                if half < piece.lines:
                    lines.prefetch(builder)
                fours = piece.load(builder, [move(builder, row, place) for row in rows], half)
                for n in numbers:
                    at = move(builder, weights[n], builder.sub(j, first))
                    _add_fours(builder, piece, fours, at, sums[2 * n : 2 * n + 2])
            for n in numbers:
                for i in range(2):
                    begin = builder.add(builder.mul(columns, INT64(n)), column)
                    at = builder.add(begin, INT64((2 * half + i) * unit.lanes))
                    own = piece.settled(builder, builder.load(sums[2 * n + i]))
                    _add_to(builder, totals, at, own)

        with cgutils.for_range(builder, builder.udiv(columns, INT64(step))) as loop:
            column = builder.mul(loop.index, INT64(step))
            begin = builder.mul(loop.index, INT64(step // cached.per_byte))
            for number, piece in enumerate(pieces):
                place = builder.add(begin, INT64(piece.begin))
                for half in range(2):
                    add_half(place, builder.add(column, INT64(number * chunk)), piece, half)
        lines.save(builder)
        return context.get_dummy_value()

    @intrinsic
    def mix(
        _: Context, parts: Type, value: Type, totals: Type, lines: Type, place: Type
    ) -> Intrinsic:
        return types.void(parts, value, totals, lines, place), generate

    return mix


def _add_fours(builder: Builder, piece: Piece, fours: Values, weights: Value, sums: Values) -> None:
    """Add two vectors of four rows times their weights, four bytes at a pointer."""
    unit = piece.unit
    pattern = builder.load(builder.bitcast(weights, INT32.as_pointer()), align=1)
    x = builder.bitcast(splat_value(builder, pattern, unit.lanes), unit.bytes_type)
    for four, total in zip(fours, sums, strict=True):
        builder.store(piece.dot(builder, builder.load(total), four, x), total)


def column_sums(unit: VectorUnit) -> int:
    """Return the sums of a column: of both parts of the weights, or of whole ones."""
    return PARTS if unit.adds_fours else 1


def lines_of_mix(unit: VectorUnit, cached: CacheCodes) -> int:
    """Return how many lines of 64 columns of ROW_BLOCK rows are prefetched: half of them, or all.

    Words are multiplied so that it is all.
    """
    if not unit.adds_fours:
        return ROW_BLOCK // cached.per_byte
    pieces = pieces_of(unit, cached)
    of_pieces = sum(piece.lines for piece in pieces) * (ROW_BLOCK // ROWS)
    return of_pieces * BLOCK // (len(pieces) * 4 * unit.lanes)


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


def rows_from(builder: Builder, cache: Value, group: Value, first: Value) -> list[Value]:
    """Return byte pointers to ROWS rows of one head."""
    row_bytes, head_bytes, _ = cgutils.unpack_tuple(builder, cache.strides)
    head = move(builder, bytes_of(builder, cache), builder.mul(group, head_bytes))
    row = move(builder, head, builder.mul(first, row_bytes))
    rows = [row]
    for _ in range(ROWS - 1):
        row = move(builder, row, row_bytes)
        rows.append(row)
    return rows


def row_pointers(builder: Builder, cache: Value, group: Value, rows: Values) -> list[Value]:
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


def zeros(builder: Builder, unit: VectorUnit, count: int) -> list[Value]:
    """Return pointers to zero vectors of sums; LLVM keeps what they point to in registers."""
    pointers = [cgutils.alloca_once(builder, unit.totals_type) for _ in range(count)]
    for pointer in pointers:
        builder.store(ir.Constant(unit.totals_type, None), pointer)
    return pointers


def add_dot(
    builder: Builder, unit: VectorUnit, total: Value, factors: tuple[Values, Values]
) -> None:
    builder.store(unit.dot_bytes(builder, builder.load(total), *factors), total)


def _add_to(builder: Builder, totals: Value, at: Value, sums: Value) -> None:
    pointer = builder.bitcast(builder.gep(totals.data, [at]), sums.type.as_pointer())
    builder.store(builder.add(builder.load(pointer, align=4), sums), pointer, align=4)
