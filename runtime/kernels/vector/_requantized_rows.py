"""Rows of accumulators to fixed point, and on to int8 codes, as LLVM: see ``_lanes``.

Results have 32 bits here. Each function also returns what tells whether more were needed, and then
the caller computes the row again as the portable kernel does: no model that works comes near.
"""

# mypy: disable-error-code="no-untyped-call,untyped-decorator,call-arg"
# Numba's internals have no types.

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from edgellm.ops._gelu import ENTRIES, FRAME, STEP_BITS
from edgellm.runtime.kernels._rows import write_row_scale
from edgellm.runtime.kernels._scalar import (
    INT32_MAX,
    Int,
    Pair,
    absmax_reciprocal,
    absmax_shift,
)
from edgellm.runtime.kernels.simd._unit import (
    INT64,
    Builder,
    Context,
    Intrinsic,
    Type,
    Value,
    Values,
    VectorUnit,
    splat,
)
from edgellm.runtime.kernels.vector._lanes import (
    INTS,
    WIDES,
    each_vector,
    fill,
    halves,
    join,
    largest,
    load,
    magnitude,
    multiply,
    multiply_unsigned,
    pairwise,
    store,
)
from edgellm.runtime.kernels.vector._tiles import open_arrays

Ints = npt.NDArray[np.int32]
Codes = npt.NDArray[np.int8]
HALF_STEP = 1 << (FRAME - STEP_BITS - 1)
"""Of the table of the activation."""


def fits(most: Int, total: Int, others: Int) -> bool:
    """Tell whether results fit: of accumulators up to ``most``, with terms up to ``others``."""
    return (most << 31 >> total) + 1 + others <= INT32_MAX


@dataclass(frozen=True)
class Requantizer:
    """Emits ``round(acc * scale * multiplier)`` of sixteen columns of a row."""

    two_mantissa: Value
    half: Value
    total: Value

    @staticmethod
    def of_row(builder: Builder, mantissa: Value, total: Value) -> "Requantizer":
        """Return that of a row with this mantissa, shifted by ``total``."""
        half = builder.shl(INT64(1), builder.sub(total, INT64(1)))
        values = builder.shl(mantissa, INT64(1)), half, total
        return Requantizer(*(fill(builder, value, WIDES) for value in values))

    def emit(self, builder: Builder, acc: Value, multiplier: Value) -> Value:
        """Return the results, or their lower 32 bits."""
        results = []
        for sums, factors in zip(halves(builder, acc), halves(builder, multiplier), strict=True):
            # (mantissa * factor + 2^30) >> 31, doubled: then it is the upper half.
            wide = multiply_unsigned(builder, self.two_mantissa, factors)
            upper = builder.add(wide, splat(WIDES, 1 << 31))
            combined = builder.lshr(upper, splat(WIDES, 32))
            product = builder.add(multiply(builder, sums, combined), self.half)
            results.append(builder.ashr(product, self.total))
        return join(builder, *results)


def track(builder: Builder, place: Value, vector: Value) -> None:
    """Keep the largest magnitudes of each lane."""
    sizes = magnitude(builder, vector)
    builder.store(pairwise(builder, "umax", builder.load(place), sizes), place)


def tracked(builder: Builder, place: Value) -> Value:
    """Return the largest of what is kept there, as int64."""
    return builder.zext(largest(builder, "umax", builder.load(place)), INT64)


def no_vector(builder: Builder) -> Value:
    """Return the place of a vector of zeros."""
    return cgutils.alloca_once_value(builder, ir.Constant(INTS, None))


@intrinsic
def requantize_row(
    _: Context, acc: Type, multiplier: Type, bias: Type, y: Type, mantissa: Type, total: Type
) -> Intrinsic:
    """``requantize_row(acc, multiplier, bias, y, mantissa, total)``: write a row of y.

    Returns the largest magnitude of acc, see ``fits``.
    """

    def generate(context: Context, builder: Builder, signature: Type, args: Values) -> Value:
        rows = open_arrays(context, builder, signature, args[:4])
        requantizer = Requantizer.of_row(builder, *args[4:])
        most = no_vector(builder)

        def emit(index: Value, mask: Value | None) -> None:
            acc, factors, added = (load(builder, row.data, index, mask) for row in rows[:3])
            track(builder, most, acc)
            result = builder.add(requantizer.emit(builder, acc, factors), added)
            store(builder, result, rows[3].data, index, mask)

        each_vector(builder, cgutils.unpack_tuple(builder, rows[0].shape)[0], emit)
        return tracked(builder, most)

    return types.int64(acc, multiplier, bias, y, types.int64, types.int64), generate


@intrinsic
def add_row(
    _: Context,
    x: Type,
    acc: Type,
    multiplier: Type,
    bias: Type,
    y: Type,
    mantissa: Type,
    total: Type,
) -> Intrinsic:
    """``add_row(x, acc, multiplier, bias, y, mantissa, total)``: ``requantize_row``, and x added.

    Returns the largest magnitudes of acc and of x.
    """
    result = types.UniTuple(types.int64, 2)

    def generate(context: Context, builder: Builder, signature: Type, args: Values) -> Value:
        rows = open_arrays(context, builder, signature, args[:5])
        requantizer = Requantizer.of_row(builder, *args[5:])
        most, most_x = no_vector(builder), no_vector(builder)

        def emit(index: Value, mask: Value | None) -> None:
            x, acc, factors, added = (load(builder, row.data, index, mask) for row in rows[:4])
            track(builder, most, acc)
            track(builder, most_x, x)
            terms = builder.add(requantizer.emit(builder, acc, factors), added)
            store(builder, builder.add(terms, x), rows[4].data, index, mask)

        each_vector(builder, cgutils.unpack_tuple(builder, rows[0].shape)[0], emit)
        sizes = [tracked(builder, place) for place in (most, most_x)]
        return context.make_tuple(builder, result, sizes)

    return result(x, acc, multiplier, bias, y, types.int64, types.int64), generate


def activate_row_with(unit: VectorUnit) -> Intrinsic:
    """Return ``activate_row(acc, multiplier, bias, table, y, mantissa, total)``.

    It writes ``relu(x) - table[|x|]`` of the results x of ``requantize_row``, see
    ``activation_quantize.subtract_bump``; returns the largest magnitudes of acc and of y.
    """
    result = types.UniTuple(types.int64, 2)

    def generate(context: Context, builder: Builder, signature: Type, args: Values) -> Value:
        *rows, table, y = open_arrays(context, builder, signature, args[:5])
        requantizer = Requantizer.of_row(builder, *args[5:])
        most, peak = no_vector(builder), no_vector(builder)

        def emit(index: Value, mask: Value | None) -> None:
            acc, factors, added = (load(builder, row.data, index, mask) for row in rows)
            track(builder, most, acc)
            x = builder.add(requantizer.emit(builder, acc, factors), added)
            rounded = builder.add(magnitude(builder, x), splat(INTS, HALF_STEP))
            place = builder.lshr(rounded, splat(INTS, FRAME - STEP_BITS))
            place = pairwise(builder, "umin", place, splat(INTS, ENTRIES - 1))
            found = unit.look_up_ints(builder, table.data, place)
            relu = pairwise(builder, "smax", x, splat(INTS, 0))
            out = builder.sub(relu, found)
            if mask is not None:
                out = builder.select(mask, out, splat(INTS, 0))
            track(builder, peak, out)
            store(builder, out, y.data, index, mask)

        each_vector(builder, cgutils.unpack_tuple(builder, rows[0].shape)[0], emit)
        sizes = [tracked(builder, place) for place in (most, peak)]
        return context.make_tuple(builder, result, sizes)

    @intrinsic
    def activate_row(
        _: Context,
        acc: Type,
        multiplier: Type,
        bias: Type,
        table: Type,
        y: Type,
        mantissa: Type,
        total: Type,
    ) -> Intrinsic:
        kinds = (acc, multiplier, bias, table, y, types.int64, types.int64)
        return result(*kinds), generate

    return activate_row


@intrinsic
def largest_magnitude(_: Context, row: Type) -> Intrinsic:
    """``largest_magnitude(row)``: of a row of int32, as int64."""

    def generate(context: Context, builder: Builder, signature: Type, args: Values) -> Value:
        (array,) = open_arrays(context, builder, signature, args)
        most = no_vector(builder)

        def emit(index: Value, mask: Value | None) -> None:
            track(builder, most, load(builder, array.data, index, mask))

        each_vector(builder, cgutils.unpack_tuple(builder, array.shape)[0], emit)
        return tracked(builder, most)

    return types.int64(row), generate


@intrinsic
def codes_row(_: Context, row: Type, codes: Type, reciprocal: Type, shift: Type) -> Intrinsic:
    """``codes_row(row, codes, reciprocal, shift)``: write int8 ``round(x * reciprocal)``."""

    def generate(context: Context, builder: Builder, signature: Type, args: Values) -> Value:
        source, out = open_arrays(context, builder, signature, args[:2])
        reciprocal, shift = (fill(builder, value, WIDES) for value in args[2:])
        half = builder.shl(splat(WIDES, 1), builder.sub(shift, splat(WIDES, 1)))

        def emit(index: Value, mask: Value | None) -> None:
            results = []
            for part in halves(builder, load(builder, source.data, index, mask)):
                product = builder.add(multiply(builder, part, reciprocal), half)
                results.append(builder.ashr(product, shift))
            store(builder, join(builder, *results), out.data, index, mask)

        each_vector(builder, cgutils.unpack_tuple(builder, source.shape)[0], emit)
        return context.get_dummy_value()

    return types.void(row, codes, types.int64, types.int64), generate


def write_codes(row: Ints, peak: Int, codes: Codes, out_scale: Ints, place: Pair) -> None:
    """Write the codes of a row and their scale, as ``_rows.quantize_row`` does.

    Args:
        row: (N,).
        peak: its largest magnitude.
        codes: (N,).
        out_scale: (T, 2).
        place: which row of it, and the fixed point.
    """
    t, frame = place
    codes_row(row, codes, np.int64(absmax_reciprocal(peak)), absmax_shift(peak))
    write_row_scale(peak, out_scale, t, frame)
