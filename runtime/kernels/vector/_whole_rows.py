"""Products of one token with whole rows of ``int8-planes/v1``, as LLVM.

All planes of some rows are read at once, and columns are multiplied in an order that suits the
unit: ``_turned_planes`` where it turns bits, ``_swapped_planes`` elsewhere. For 128,256 rows of
2,560 columns one thread of a server of 2024, which turns bits, takes 22 ms, where only to read them
takes 20; plane by plane, with a product for each, it took 26.
"""

# mypy: disable-error-code="no-untyped-call,untyped-decorator"
# Numba's internals have no types.

from types import ModuleType

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from edgellm.runtime import cpu
from edgellm.runtime.kernels.simd._lane_sums import sum_four
from edgellm.runtime.kernels.simd._unit import (
    INT64,
    Builder,
    Context,
    Intrinsic,
    Type,
    Value,
    Values,
    VectorUnit,
    move,
    splat_value,
)
from edgellm.runtime.kernels.vector import _swapped_planes, _turned_planes
from edgellm.runtime.kernels.vector._planes import PLANES, WHOLE_ROWS
from edgellm.runtime.kernels.vector._tiles import (
    LINE_BYTES,
    NEAR,
    bytes_of,
    matrix_rows,
    open_arrays,
    prefetch,
)

CODES = 2
"""Of the arranged token for each column: what high nibbles are multiplied with, and low bits."""
TILES_AHEAD = {"znver4": 2}.get(cpu.host().name, 1)
"""How many tiles further on weights are prefetched. (Zen 4: two take 0.96 of the time of one.)"""


def way_of(unit: VectorUnit) -> ModuleType:
    """Return the module that multiplies columns."""
    return _turned_planes if unit.turns_bits else _swapped_planes


def whole_tile(unit: VectorUnit) -> Intrinsic:
    """Return the intrinsic ``tile(x, high, low, v, start, sums)``.

    It writes to ``sums[v]`` and the next, WHOLE_ROWS in all, ``start`` and the products of rows of
    weights + 128 with x, as ``arrange_for`` has it.
    """
    way = way_of(unit)
    step: int = way.columns_at_once(unit)
    beside: int = way.rows_beside(unit)

    def generate(context: Context, builder: Builder, signature: Type, args: Values) -> Value:
        x, high, low = open_arrays(context, builder, signature, args[:3])
        v, start, sums = args[3:]
        out = context.make_array(signature.args[5])(context, builder, sums)
        columns = builder.mul(cgutils.unpack_tuple(builder, high.strides)[0], INT64(2))
        rows = list(
            zip(matrix_rows(builder, high, v, WHOLE_ROWS), _bit_rows(builder, low, v), strict=True)
        )
        totals = [_zeros(builder, unit, way.SUMS) for _ in rows]
        after = builder.add(v, INT64(TILES_AHEAD * WHOLE_ROWS))
        next_high, next_low = (
            matrix_rows(builder, high, after, 1)[0],
            _bit_rows(builder, low, after),
        )
        count = builder.udiv(builder.add(columns, INT64(step - 1)), INT64(step))
        last = builder.sub(columns, INT64(step))
        for begin in range(0, WHOLE_ROWS, beside):
            some = slice(begin, begin + beside)
            with cgutils.for_range(builder, count) as loop:
                at = builder.add(loop.index, builder.mul(count, INT64(begin // beside)))
                _expect(builder, next_high, at, beside * step // 2)
                for plane in next_low[0][some]:  # there are as many planes as rows
                    _expect(builder, plane, loop.index, WHOLE_ROWS * step // 8)
                codes = builder.mul(loop.index, INT64(CODES * step))
                column = builder.mul(loop.index, INT64(step))
                column = builder.select(builder.icmp_signed("<", column, last), column, last)
                half, eighth = (builder.udiv(column, INT64(part)) for part in (2, 8))
                x_part = move(builder, bytes_of(builder, x), codes)
                for (nibbles, bits), own in zip(rows[some], totals[some], strict=True):
                    row = move(builder, nibbles, half), [move(builder, q, eighth) for q in bits]
                    way.add_columns(builder, unit, own, row, x_part)
        four = sum_four(builder, [way.total_of(builder, own) for own in totals])
        four = builder.add(four, splat_value(builder, start, WHOLE_ROWS))
        place = builder.bitcast(builder.gep(out.data, [v]), four.type.as_pointer())
        builder.store(four, place, align=4)
        return context.get_dummy_value()

    @intrinsic
    def tile(
        _: Context, x: Type, high: Type, low: Type, v: Type, start: Type, sums: Type
    ) -> Intrinsic:
        return types.void(x, high, low, types.int64, types.int32, sums), generate

    return tile


def _bit_rows(builder: Builder, low: Value, v: Value) -> list[list[Value]]:
    """Return for each of WHOLE_ROWS rows where it begins in each plane."""
    plane_bytes, row_bytes, _ = cgutils.unpack_tuple(builder, low.strides)
    first = move(builder, bytes_of(builder, low), builder.mul(row_bytes, v))
    starts = [move(builder, first, builder.mul(plane_bytes, INT64(q))) for q in range(PLANES)]
    return [
        [move(builder, start, builder.mul(row_bytes, INT64(i))) for start in starts]
        for i in range(WHOLE_ROWS)
    ]


def _expect(builder: Builder, rows: Value, index: Value, size: int) -> None:
    """Begin to read a part of what a later tile wants, in the order of memory.

    Without that, the rows of a tile are as many streams as it has rows and planes: 29 ms.
    """
    part = move(builder, rows, builder.mul(index, INT64(size)))
    for line in range(0, size, LINE_BYTES):
        prefetch(builder, move(builder, part, INT64(line)), NEAR)


def _zeros(builder: Builder, unit: VectorUnit, count: int) -> list[Value]:
    zero = ir.Constant(unit.totals_type, None)
    return [cgutils.alloca_once_value(builder, zero) for _ in range(count)]
