"""A row of LayerNorm, as LLVM: see ``_lanes``."""

# mypy: disable-error-code="no-untyped-call,untyped-decorator"
# Numba's internals have no types.

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from edgellm.runtime.kernels.simd._unit import (
    INT64,
    Builder,
    Context,
    Intrinsic,
    Type,
    Value,
    Values,
    call,
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
    multiply,
    pairwise,
    store,
)
from edgellm.runtime.kernels.vector._requantized_rows import no_vector, track, tracked
from edgellm.runtime.kernels.vector._tiles import open_arrays


def half_of(builder: Builder, shift: Value) -> Value:
    """Return what is added before a shift to the right, 0 where that is 0."""
    one = splat(WIDES, 1)
    return builder.lshr(builder.shl(one, shift), one)


def add_to(builder: Builder, place: Value, vectors: Values) -> None:
    """Add vectors of int64 to the one that is kept there."""
    total = builder.load(place)
    for vector in vectors:
        total = builder.add(total, vector)
    builder.store(total, place)


def sum_at(builder: Builder, place: Value) -> Value:
    """Return the sum of the lanes of a vector of int64."""
    name = f"llvm.vector.reduce.add.v{WIDES.count}i64"
    return call(builder, name, INT64, [builder.load(place)])


@intrinsic
def row_facts(_: Context, x: Type) -> Intrinsic:
    """``row_facts(x)``: the sum of a row, its least and its largest element."""
    result = types.UniTuple(types.int64, 3)

    def generate(context: Context, builder: Builder, signature: Type, args: Values) -> Value:
        (row,) = open_arrays(context, builder, signature, args)
        total = cgutils.alloca_once_value(builder, ir.Constant(WIDES, None))
        first = fill(builder, builder.load(row.data), INTS)
        least, most = (cgutils.alloca_once_value(builder, first) for _ in range(2))

        def emit(index: Value, mask: Value | None) -> None:
            vector = load(builder, row.data, index, mask)
            upper = splat(WIDES, 32)
            even = builder.bitcast(vector, WIDES)
            signed = [builder.ashr(part, upper) for part in (builder.shl(even, upper), even)]
            add_to(builder, total, signed)
            if mask is not None:
                vector = builder.select(mask, vector, first)
            for name, place in (("smin", least), ("smax", most)):
                builder.store(pairwise(builder, name, builder.load(place), vector), place)

        each_vector(builder, cgutils.unpack_tuple(builder, row.shape)[0], emit)
        low, high = (
            builder.sext(largest(builder, name, builder.load(place)), INT64)
            for name, place in (("smin", least), ("smax", most))
        )
        return context.make_tuple(builder, result, [sum_at(builder, total), low, high])

    return result(x), generate


@intrinsic
def centre_row(_: Context, x: Type, out: Type, columns: Type, total: Type, drop: Type) -> Intrinsic:
    """``centre_row(x, out, columns, total, drop)``: ``(columns * x - total) >> drop``, rounded.

    Returns the sum of the squares.
    """

    def generate(context: Context, builder: Builder, signature: Type, args: Values) -> Value:
        source, out = open_arrays(context, builder, signature, args[:2])
        columns, total, drop = (fill(builder, value, WIDES) for value in args[2:])
        added = builder.sub(half_of(builder, drop), total)
        squares = cgutils.alloca_once_value(builder, ir.Constant(WIDES, None))

        def emit(index: Value, mask: Value | None) -> None:
            results = []
            for part in halves(builder, load(builder, source.data, index, mask)):
                wide = builder.add(multiply(builder, part, columns), added)
                results.append(builder.ashr(wide, drop))
            vector = join(builder, *results)
            if mask is not None:
                vector = builder.select(mask, vector, splat(INTS, 0))
            store(builder, vector, out.data, index, mask)
            parts = halves(builder, vector)
            add_to(builder, squares, [multiply(builder, part, part) for part in parts])

        each_vector(builder, cgutils.unpack_tuple(builder, source.shape)[0], emit)
        return sum_at(builder, squares)

    return types.int64(x, out, types.int64, types.int64, types.int64), generate


@intrinsic
def scale_row(
    _: Context, row: Type, weight: Type, bias: Type, factor: Type, fraction: Type, shift: Type
) -> Intrinsic:
    """``scale_row(row, weight, bias, factor, fraction, shift)``: centred values to results.

    In place; returns the largest magnitude. Results have 32 bits.
    """

    def generate(context: Context, builder: Builder, signature: Type, args: Values) -> Value:
        rows = open_arrays(context, builder, signature, args[:3])
        factor, fraction, shift = (fill(builder, value, WIDES) for value in args[3:])
        half, unit_half = half_of(builder, shift), half_of(builder, fraction)
        peak = no_vector(builder)

        def emit(index: Value, mask: Value | None) -> None:
            values, weights, added = (load(builder, row.data, index, mask) for row in rows)
            results = []
            parts = zip(halves(builder, values), halves(builder, weights), strict=True)
            for value, gain in parts:
                wide = builder.add(multiply(builder, value, factor), unit_half)
                unit = builder.ashr(wide, fraction)
                scaled = builder.add(multiply(builder, unit, gain), half)
                results.append(builder.ashr(scaled, shift))
            result = builder.add(join(builder, *results), added)
            track(builder, peak, result)
            store(builder, result, rows[0].data, index, mask)

        each_vector(builder, cgutils.unpack_tuple(builder, rows[0].shape)[0], emit)
        return tracked(builder, peak)

    wide = types.int64
    return wide(row, weight, bias, wide, wide, wide), generate
