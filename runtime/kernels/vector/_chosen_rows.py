"""A tile of rows of weights that need not be neighbours, for one token; see ``_tiles``."""

# mypy: disable-error-code="no-untyped-call,untyped-decorator"
# Numba's internals have no types.

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from edgellm.runtime.kernels.simd._unit import (
    BLOCK,
    INT64,
    Builder,
    Context,
    Intrinsic,
    Type,
    Value,
    Values,
    move,
    sum_four,
)
from edgellm.runtime.kernels.vector._tiles import (
    LINE_BYTES,
    ROWS,
    Operation,
    bytes_of,
    open_arrays,
    prefetch,
    row_stride,
)

AHEAD = 2 * ROWS
"""How many of the chosen rows further on the weights are prefetched."""


def chosen_rows_tile(operation: Operation) -> Intrinsic:
    """Return the intrinsic ``tile(x, weight, acc, rows, at)``.

    For each n of ``rows[at : at + ROWS]``, int32: add to ``acc[n]`` the product ``x . weight[n]``
    over the whole blocks of 64 columns of x; and prefetch ``rows[at + AHEAD...]``.
    """

    def generate(context: Context, builder: Builder, signature: Type, args: Values) -> Value:
        x, weight, acc, rows = open_arrays(context, builder, signature, args[:4])
        chosen = _indices(builder, rows, args[4])
        coming = _indices(builder, rows, builder.add(args[4], INT64(AHEAD)))
        stride, data = row_stride(builder, weight), bytes_of(builder, weight)
        now, later = (
            [move(builder, data, builder.mul(index, stride)) for index in indices]
            for indices in (chosen, coming)
        )
        blocks = builder.udiv(cgutils.unpack_tuple(builder, x.shape)[0], INT64(BLOCK))
        totals = _multiply(builder, operation, blocks, bytes_of(builder, x), (now, later))
        sums = sum_four(builder, totals, operation.shifts)
        for i, index in enumerate(chosen):
            place = builder.gep(acc.data, [index])
            value = builder.add(builder.load(place), builder.extract_element(sums, INT64(i)))
            builder.store(value, place)
        return context.get_dummy_value()

    @intrinsic
    def tile(_: Context, x: Type, weight: Type, acc: Type, rows: Type, at: Type) -> Intrinsic:
        return types.void(x, weight, acc, rows, at), generate

    return tile


def _indices(builder: Builder, rows: Value, at: Value) -> list[Value]:
    places = [builder.gep(rows.data, [builder.add(at, INT64(i))]) for i in range(ROWS)]
    return [builder.zext(builder.load(place), INT64) for place in places]


def _multiply(
    builder: Builder,
    operation: Operation,
    blocks: Value,
    x: Value,
    rows: tuple[list[Value], list[Value]],
) -> list[Value]:
    """Return the sums of each row, as vectors; prefetch the second rows, a line a row at a time."""
    zero = ir.Constant(operation.unit.totals_type, None)
    totals = [cgutils.alloca_once_value(builder, zero) for _ in range(ROWS)]
    with cgutils.for_range(builder, blocks) as loop:
        offset = builder.mul(loop.index, INT64(operation.block_bytes))
        at_line = builder.icmp_unsigned("==", builder.and_(offset, INT64(LINE_BYTES - 1)), INT64(0))
        with builder.if_then(at_line):
            for row in rows[1]:
                prefetch(builder, move(builder, row, offset))
        activations = operation.load_x(
            builder, move(builder, x, builder.mul(loop.index, INT64(BLOCK)))
        )
        for total, row in zip(totals, rows[0], strict=True):
            weights = operation.load(builder, move(builder, row, offset))
            value = operation.dot(builder, builder.load(total), weights, activations)
            builder.store(value, total)
    return [builder.load(total) for total in totals]
