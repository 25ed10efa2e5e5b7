"""Sums of groups times their scales, as LLVM: the total of a row stays in a register meanwhile."""

# mypy: disable-error-code="no-untyped-call,untyped-decorator"
# Numba's internals have no types.

import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic, register_jitable

from edgellm.runtime.kernels._bit_planes import ROWS
from edgellm.runtime.kernels._jit import PART_POLICY
from edgellm.runtime.kernels._scalar import Int
from edgellm.runtime.kernels.simd._unit import (
    INT16,
    INT32,
    INT64,
    Builder,
    Context,
    Intrinsic,
    Type,
    Value,
    Values,
    load_vector,
    move,
)
from edgellm.runtime.kernels.vector._tiles import bytes_of, open_arrays, row_stride

AT_ONCE = 8
"""Rows."""

Sums = npt.NDArray[np.int32]
Totals = npt.NDArray[np.int64]


@intrinsic
def add_vectors(
    _: Context, sums: Type, scale: Type, first: Type, vectors: Type, totals: Type
) -> Intrinsic:
    """``add_vectors(sums, scale, first, vectors, totals)``: for so many AT_ONCE rows.

    sums are those of 64 rows a group, scale (groups, N) of the rows from the first on.
    """

    def generate(context: Context, builder: Builder, signature: Type, args: Values) -> Value:
        kinds = types.void(*(signature.args[i] for i in (0, 1, 4)))
        arrays = open_arrays(context, builder, kinds, [args[i] for i in (0, 1, 4)])
        own, factors, out = (bytes_of(builder, array) for array in arrays)
        groups = cgutils.unpack_tuple(builder, arrays[1].shape)[0]
        stride = row_stride(builder, arrays[1])
        wide = ir.VectorType(INT64, AT_ONCE)
        with cgutils.for_range(builder, args[3]) as loop:
            row = builder.mul(loop.index, INT64(AT_ONCE))
            place = move(builder, out, builder.mul(row, INT64(8)))
            at = move(builder, own, builder.mul(row, INT64(4)))
            column = builder.mul(builder.add(args[2], row), INT64(2))
            total = cgutils.alloca_once_value(builder, load_vector(builder, place, wide))
            with cgutils.for_range(builder, groups) as inner:
                offset = builder.mul(inner.index, INT64(4 * ROWS))
                part = load_vector(
                    builder, move(builder, at, offset), ir.VectorType(INT32, AT_ONCE)
                )
                offset = builder.add(builder.mul(inner.index, stride), column)
                factor = load_vector(
                    builder, move(builder, factors, offset), ir.VectorType(INT16, AT_ONCE)
                )
                product = builder.mul(builder.sext(part, wide), builder.sext(factor, wide))
                builder.store(builder.add(builder.load(total), product), total)
            builder.store(builder.load(total), builder.bitcast(place, wide.as_pointer()), align=8)
        return context.get_dummy_value()

    return types.void(sums, scale, first, vectors, totals), generate


@register_jitable(**PART_POLICY)
def add_scaled(
    sums: Sums, scale: npt.NDArray[np.int16], first: Int, last: Int, totals: Totals
) -> None:
    """Add the sums of groups, 64 rows each, times the scales (groups, N) of the rows."""
    vectors = (last - first) // AT_ONCE
    add_vectors(sums, scale, first, vectors, totals)
    for row in range(vectors * AT_ONCE, last - first):
        for group in range(scale.shape[0]):
            totals[row] += np.int64(sums[group * ROWS + row]) * np.int64(scale[group, first + row])
