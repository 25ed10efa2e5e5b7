"""A tile of rows of weights that need not be neighbours, for one token; see ``_tiles``."""

# mypy: disable-error-code="no-untyped-call,untyped-decorator"
# Numba's internals have no types.

from numba.core import cgutils, types
from numba.extending import intrinsic

from edgellm.runtime.kernels.simd._lane_sums import sum_four
from edgellm.runtime.kernels.simd._unit import (
    INT64,
    Builder,
    Context,
    Intrinsic,
    Type,
    Value,
    Values,
    move,
)
from edgellm.runtime.kernels.vector._tiles import (
    ROWS,
    Operands,
    Operation,
    bytes_of,
    open_arrays,
    row_stride,
)

AHEAD = 2 * ROWS
"""How many of the chosen rows further on the weights are prefetched."""


def chosen_rows_tile(operation: Operation) -> Intrinsic:
    """Return the intrinsic ``tile(x, rest, weight, acc, rows, at)``.

    For each n of ``rows[at : at + ROWS]``, int32: add to ``acc[n]`` the product ``x . weight[n]``,
    with ``rest`` for what is behind the whole blocks of x; and prefetch ``rows[at + AHEAD...]``.
    """

    def generate(context: Context, builder: Builder, signature: Type, args: Values) -> Value:
        x, rest, weight, acc, rows = open_arrays(context, builder, signature, args[:5])
        chosen = _indices(builder, rows, args[5])
        coming = _indices(builder, rows, builder.add(args[5], INT64(AHEAD)))
        stride, data = row_stride(builder, weight), bytes_of(builder, weight)
        now, later = (
            [move(builder, data, builder.mul(index, stride)) for index in indices]
            for indices in (chosen, coming)
        )
        (columns,) = cgutils.unpack_tuple(builder, x.shape)
        row_bytes = cgutils.unpack_tuple(builder, weight.shape)[1]
        begin_last = builder.sub(row_bytes, INT64(operation.block_bytes))
        operands = Operands(
            columns,
            [bytes_of(builder, x)],
            now,
            [bytes_of(builder, rest)],
            [move(builder, row, begin_last) for row in now],
        )
        sums = sum_four(builder, operation.multiply(builder, operands, later))
        for i, index in enumerate(chosen):
            place = builder.gep(acc.data, [index])
            value = builder.add(builder.load(place), builder.extract_element(sums, INT64(i)))
            builder.store(value, place)
        return context.get_dummy_value()

    @intrinsic
    def tile(
        _: Context, x: Type, rest: Type, weight: Type, acc: Type, rows: Type, at: Type
    ) -> Intrinsic:
        return types.void(x, rest, weight, acc, rows, at), generate

    return tile


def _indices(builder: Builder, rows: Value, at: Value) -> list[Value]:
    places = [builder.gep(rows.data, [builder.add(at, INT64(i))]) for i in range(ROWS)]
    return [builder.zext(builder.load(place), INT64) for place in places]
