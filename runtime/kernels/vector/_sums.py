"""How the sums of a panel become results, as LLVM."""

# mypy: disable-error-code="no-untyped-call,untyped-decorator"
# Numba's internals have no types.

from dataclasses import dataclass

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from edgellm.runtime.kernels.simd._unit import (
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
from edgellm.runtime.kernels.vector._panels import ROW_GROUPS
from edgellm.runtime.kernels.vector._tiles import matrix_rows, open_arrays, prefetch

LANES = 16


@intrinsic
def expect_sums(_: Context, acc: Type, t: Type, n: Type) -> Intrinsic:
    """``expect_sums(acc, t, n)``: begin to read ``acc[t, n : n + 32]``, which is wanted soon."""

    def generate(context: Context, builder: Builder, signature: Type, args: Values) -> Value:
        (array,) = open_arrays(context, builder, signature, args[:1])
        (row,) = matrix_rows(builder, array, args[1], 1)
        begin = move(builder, row, builder.mul(args[2], INT64(4)))
        for group in range(ROW_GROUPS):
            prefetch(builder, move(builder, begin, INT64(4 * LANES * group)), 2)
        return context.get_dummy_value()

    return types.void(acc, types.int64, types.int64), generate


@dataclass(frozen=True)
class SumsWriter:
    """Writes sums where they belong.

    Attributes:
        gated: whether a sum counts only where the gate is positive, and else is 0.
    """

    gated: bool = False

    def build(self, *, add: bool) -> Intrinsic:
        """Return the intrinsic ``write(sums, acc, gate, t, n)``.

        Let ``acc[t, n : n + 32]`` be ``sums[t]``, or, with ``add``, more by as much.
        """

        def generate(context: Context, builder: Builder, signature: Type, args: Values) -> Value:
            arrays = open_arrays(context, builder, signature, args[:3])
            t, n = args[3:]
            (sums,), acc, gate = (matrix_rows(builder, array, t, 1) for array in arrays)
            offset = builder.mul(n, INT64(4))
            kind = ir.VectorType(INT32, LANES)
            for group in range(ROW_GROUPS):
                size = INT64(4 * LANES * group)
                places = [move(builder, move(builder, row, offset), size) for row in (*acc, *gate)]
                value = load_vector(builder, move(builder, sums, size), kind)
                if self.gated:
                    zero = ir.Constant(kind, None)
                    is_open = load_vector(builder, places[1], kind)
                    is_open = builder.icmp_signed(">", is_open, zero)
                    value = builder.select(is_open, value, zero)
                if add:
                    value = builder.add(value, load_vector(builder, places[0], kind))
                target = builder.bitcast(places[0], kind.as_pointer())
                builder.store(value, target, align=4)
            return context.get_dummy_value()

        @intrinsic
        def write(_: Context, sums: Type, acc: Type, gate: Type, t: Type, n: Type) -> Intrinsic:
            return types.void(sums, acc, gate, types.int64, types.int64), generate

        return write
