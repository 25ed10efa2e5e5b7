"""Tiles of many tokens and rows of weights of 16 bits, as LLVM."""

# mypy: disable-error-code="no-untyped-call,untyped-decorator"
# Numba's internals have no types.

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from edgellm.runtime.kernels.simd._lane_sums import sum_four
from edgellm.runtime.kernels.simd._unit import (
    INT8,
    INT16,
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
from edgellm.runtime.kernels.vector._tiles import bytes_of, matrix_rows, open_arrays

ROWS, TOKENS = 2, 4
"""Of a tile: their sums stay in registers."""
UNROLL = 2
"""Vectors a step."""
STEP = 32
"""Columns are a multiple of it: a step of the longest vectors."""


def wide_tile(unit: VectorUnit) -> Intrinsic:
    """Return the intrinsic ``tile(x, weight, totals, (t, n, row), columns)``, of words.

    To ``totals[t, n]``, for TOKENS from t and ROWS from n, it adds the products of the first
    columns of x[t] with those of ``weight[row]`` and the following; they must fit in 32 bits.
    """

    def generate(context: Context, builder: Builder, signature: Type, args: Values) -> Value:
        x, weight, totals = open_arrays(context, builder, signature, args[:3])
        t, n, row = cgutils.unpack_tuple(builder, args[3])
        xs, rows = matrix_rows(builder, x, t, TOKENS), matrix_rows(builder, weight, row, ROWS)
        kind, nothing = ir.VectorType(INT16, 2 * unit.lanes), ir.Constant(unit.totals_type, None)
        sums = [cgutils.alloca_once_value(builder, nothing) for _ in xs for _ in rows]
        width = 4 * unit.lanes
        size, step = builder.mul(args[4], INT64(2)), INT64(UNROLL * width)
        with cgutils.for_range_slice(builder, INT64(0), size, step, INT64) as (byte, _):
            for i in range(UNROLL):
                at = builder.add(byte, INT64(width * i))
                factors = [load_vector(builder, move(builder, one, at), kind) for one in rows]
                places = iter(sums)
                for one in xs:
                    activations = load_vector(builder, move(builder, one, at), kind)
                    for factor in factors:
                        place = next(places)
                        total = builder.load(place)
                        total = unit.dot_int16(builder, total, factor, activations)
                        builder.store(total, place)
        _add_totals(builder, sums, matrix_rows(builder, totals, t, TOKENS), n)
        return context.get_dummy_value()

    @intrinsic
    def tile(
        _: Context, x: Type, weight: Type, totals: Type, place: Type, columns: Type
    ) -> Intrinsic:
        return types.void(x, weight, totals, place, columns), generate

    return tile


def _add_totals(builder: Builder, sums: Values, totals: Values, n: Value) -> None:
    """Add the lanes of the sums of each token to its totals from n on."""
    wide, together = ir.VectorType(INT64, 4), 4 // ROWS
    for i in range(0, len(totals), together):
        four = sum_four(builder, [builder.load(place) for place in sums[ROWS * i : ROWS * i + 4]])
        add_to_rows(builder, builder.sext(four, wide), totals[i : i + together], n)


def add_to_rows(builder: Builder, sums: Value, rows: Values, n: Value) -> None:
    """Add a vector of int64, as many elements to each row as there are for it, from n on."""
    count = sums.type.count // len(rows)
    for i, row in enumerate(rows):
        own = shuffle(builder, sums, sums, range(count * i, count * i + count))
        at = move(builder, row, builder.mul(n, INT64(8)))
        place = builder.bitcast(at, own.type.as_pointer())
        builder.store(builder.add(builder.load(place, align=8), own), place, align=8)


def widening(unit: VectorUnit) -> Intrinsic:
    """Return the intrinsic ``widen(x, t, column, columns, words)``: some int8 of a row as words.

    What makes up the last STEP is zeros.
    """

    def generate(context: Context, builder: Builder, signature: Type, args: Values) -> Value:
        kinds = types.void(signature.args[0], signature.args[4])
        x, words = open_arrays(context, builder, kinds, [args[0], args[4]])
        source = move(builder, matrix_rows(builder, x, args[1], 1)[0], args[2])
        out, width = bytes_of(builder, words), 2 * unit.lanes
        narrow, wide = (ir.VectorType(kind, width) for kind in (INT8, INT16))
        whole = builder.and_(args[3], INT64(-width))
        end = builder.and_(builder.add(args[3], INT64(STEP - 1)), INT64(-STEP))
        with cgutils.for_range_slice(builder, INT64(0), whole, INT64(width), INT64) as (at, _):
            vector = load_vector(builder, move(builder, source, at), narrow)
            place = builder.bitcast(
                move(builder, out, builder.mul(at, INT64(2))), wide.as_pointer()
            )
            builder.store(builder.sext(vector, wide), place, align=2)
        with cgutils.for_range_slice(builder, whole, end, INT64(1), INT64) as (at, _):
            inside = builder.icmp_signed("<", at, args[3])
            there = builder.select(inside, at, INT64(0))
            code = builder.sext(builder.load(builder.gep(source, [there])), INT16)
            place = builder.bitcast(
                move(builder, out, builder.mul(at, INT64(2))), INT16.as_pointer()
            )
            builder.store(builder.select(inside, code, INT16(0)), place)
        return context.get_dummy_value()

    @intrinsic
    def widen(_: Context, x: Type, t: Type, column: Type, columns: Type, words: Type) -> Intrinsic:
        return types.void(x, t, column, columns, words), generate

    return widen


def wide_translate(unit: VectorUnit) -> Intrinsic:
    """Return the intrinsic ``look_up(codes, count, low, high, words)``.

    It writes ``256 * high[code] + low[code]``, of unsigned bytes, for ``count`` codes below 16, and
    something for what makes up the last vector behind them.
    """

    def generate(context: Context, builder: Builder, signature: Type, args: Values) -> Value:
        chosen = [0, 2, 3, 4]
        kinds = types.void(*(signature.args[i] for i in chosen))
        arrays = open_arrays(context, builder, kinds, [args[i] for i in chosen])
        codes, low, high, out = (bytes_of(builder, array) for array in arrays)
        width, once = 4 * unit.lanes, ir.VectorType(INT8, 16)
        tables = [
            repeat(builder, load_vector(builder, table, once), width // once.count)
            for table in (low, high)
        ]
        vectors = builder.udiv(builder.add(args[1], INT64(width - 1)), INT64(width))
        with cgutils.for_range(builder, vectors) as loop:
            offset = builder.mul(loop.index, INT64(width))
            keys = load_vector(builder, move(builder, codes, offset), unit.bytes_type)
            halves = [unit.shuffle_bytes(builder, table, keys) for table in tables]
            both = shuffle(builder, *halves, [i + j for i in range(width) for j in (0, width)])
            target = move(builder, out, builder.mul(offset, INT64(2)))
            builder.store(both, builder.bitcast(target, both.type.as_pointer()), align=1)
        return context.get_dummy_value()

    @intrinsic
    def look_up(
        _: Context, codes: Type, count: Type, low: Type, high: Type, words: Type
    ) -> Intrinsic:
        return types.void(codes, count, low, high, words), generate

    return look_up
