"""RmsNormQuantize on a vector unit: codes are made in products of 32 bits.

What is multiplied has 38 bits, too many for one product, and what the compiler makes of a product
of 64 took most of the time.
"""

# mypy: disable-error-code="no-untyped-call,untyped-decorator,call-arg"
# Numba's internals have no types; an intrinsic is declared with the typing context as its first
# argument, and called without.

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from edgellm.runtime.kernels._scalar import absmax_reciprocal, absmax_shift
from edgellm.runtime.kernels.rms_norm_quantize import measure, write_codes, write_norm_scale
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
    splat,
    splat_value,
)
from edgellm.runtime.kernels.vector._tiles import open_arrays

COLUMNS = 16
"""Of a step."""
WIDES, INTS = ir.VectorType(INT64, COLUMNS), ir.VectorType(INT32, COLUMNS)


@intrinsic
def codes_of(_: Context, row: Type, weight: Type, facts: Type, codes: Type) -> Intrinsic:
    """``codes_of(row, weight, (drop, reciprocal, shift), codes)``: of whole steps of a row."""

    def generate(context: Context, builder: Builder, signature: Type, args: Values) -> Value:
        kinds = types.void(*signature.args[:2], signature.args[3])
        source, gains, out = open_arrays(context, builder, kinds, [*args[:2], args[3]])
        drop, reciprocal, shift = (
            splat_value(builder, value, COLUMNS) for value in cgutils.unpack_tuple(builder, args[2])
        )
        added, half = (_half(builder, amount) for amount in (drop, shift))
        # The compiler does not know that it has so few bits.
        reciprocal = builder.and_(reciprocal, splat(WIDES, 2**31 - 1))
        count = builder.and_(cgutils.unpack_tuple(builder, source.shape)[0], INT64(-COLUMNS))
        loop = cgutils.for_range_slice(builder, INT64(0), count, INT64(COLUMNS), INT64)
        with loop as (index, _):
            values = load_vector(builder, builder.gep(source.data, [index]), WIDES)
            values = builder.ashr(builder.add(values, added), drop)
            narrow = ir.VectorType(INT16, COLUMNS)
            own = load_vector(builder, builder.gep(gains.data, [index]), narrow)
            values = builder.sext(builder.trunc(values, INTS), WIDES)
            weighted = builder.mul(values, builder.sext(own, WIDES))
            product = _times(builder, weighted, reciprocal)
            wide = builder.lshr(builder.add(product, half), shift)  # of which a byte is kept
            bytes_ = builder.trunc(wide, ir.VectorType(INT8, COLUMNS))
            place = builder.gep(out.data, [index])
            builder.store(bytes_, builder.bitcast(place, bytes_.type.as_pointer()), align=1)
        return context.get_dummy_value()

    return types.void(row, weight, facts, codes), generate


def _half(builder: Builder, shift: Value) -> Value:
    """Return what rounds before a shift, 0 before none."""
    one = splat(WIDES, 1)
    return builder.lshr(builder.shl(one, shift), one)


def _times(builder: Builder, vector: Value, factor: Value) -> Value:
    """Return products with a factor from 0 to 2^31 - 1, which have 64 bits: of both halves."""
    upper = builder.lshr(vector, splat(WIDES, 32))
    products = (
        builder.mul(extend(builder.trunc(part, INTS), WIDES), factor)
        for part, extend in ((vector, builder.zext), (upper, builder.sext))
    )
    low, high = products
    return builder.add(low, builder.shl(high, splat(WIDES, 32)))


def build(_unit: VectorUnit) -> Callable[..., None]:
    """Return the kernel."""

    def rms_norm_quantize(
        thread: int,
        threads: int,
        x: npt.NDArray[np.int64],  # (T, N)
        scale: npt.NDArray[np.int32],  # (T, 2) or (1, 2)
        weight: npt.NDArray[np.int16],  # (N,)
        codes: npt.NDArray[np.int8],  # (T, N)
        out_scale: npt.NDArray[np.int32],  # (T, 2)
        epsilon_mantissa: int,
        epsilon_exponent: int,
        gain_mantissa: int,
        gain_exponent: int,
    ) -> None:
        epsilon, gain = (epsilon_mantissa, epsilon_exponent), (gain_mantissa, gain_exponent)
        whole = x.shape[1] // COLUMNS * COLUMNS
        for t in range(thread, x.shape[0], threads):
            facts = measure(x[t], weight)
            scaling = np.int64(absmax_reciprocal(facts.peak)), np.int64(absmax_shift(facts.peak))
            codes_of(x[t], weight, (np.int64(facts.drop), *scaling), codes[t])
            row, rest = x[t][whole:], codes[t][whole:]
            write_codes(row, weight[whole:], facts.drop, scaling, rest)
            write_norm_scale(out_scale, t, facts, scale, (epsilon, gain))

    return rms_norm_quantize
