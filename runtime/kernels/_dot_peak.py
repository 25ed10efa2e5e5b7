"""A loop of nothing but a vector unit's dot products: how fast integers are multiplied at most.

Imported only to compile.
"""

# mypy: disable-error-code="no-untyped-call,untyped-decorator"
# Numba's internals have no types.

from collections.abc import Callable

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from edgellm.runtime.kernels._scalar import stack_int8
from edgellm.runtime.kernels.simd._unit import (
    BLOCK,
    DOT_CHAINS,
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
    call,
    splat,
)
from edgellm.runtime.kernels.vector._amx import CONFIGURATION, ROWS, configure, describe, release

TILE_PRODUCTS = 6
"""Matrix products of a step: so many sums hide their latency."""
TILE_ROUNDS = 128
"""Rounds of DOT_CHAINS * BLOCK products that are as many as TILE_PRODUCTS of 16 * 16 * 64."""


def build(unit: VectorUnit) -> Callable[[int, int], None]:
    """Return ``loop(place, rounds)``: ``rounds * DOT_CHAINS * BLOCK`` products.

    They begin with the int64 at ``place``, and end in it; matrix tiles leave it as it is.
    """
    if unit.matrix_tiles:
        return build_matrix_tiles()

    def generate(context: Context, builder: Builder, _signature: Type, args: Value) -> Value:
        place = builder.inttoptr(args[0], INT64.as_pointer())
        # From memory, so that the codes are no constant and nothing is computed in advance.
        byte = builder.trunc(builder.load(place), INT8)
        code = builder.insert_element(ir.Constant(unit.bytes_type, None), byte, INT32(0))
        # Of different codes, so that no product is the same twice.
        codes = [builder.add(code, splat(code.type, i)) for i in range(BLOCK // (4 * unit.lanes))]
        totals = [
            cgutils.alloca_once_value(builder, ir.Constant(unit.totals_type, [i] * unit.lanes))
            for i in range(DOT_CHAINS)
        ]
        with cgutils.for_range(builder, args[1]):
            for total in totals:
                # A sum is its own activations: nothing of the loop is the same twice.
                builder.store(_multiply(builder, unit, codes, builder.load(total)), total)
        result = builder.load(totals[0])
        for total in totals[1:]:
            result = builder.add(result, builder.load(total))
        lane = builder.extract_element(result, INT32(0))
        builder.store(builder.sext(lane, INT64), place)
        return context.get_dummy_value()

    @intrinsic
    def dots(_: Context, place: Type, rounds: Type) -> Intrinsic:
        return types.void(place, rounds), generate

    def loop(place: int, rounds: int) -> None:
        dots(place, rounds)

    return loop


def _multiply(builder: Builder, unit: VectorUnit, codes: Values, total: Value) -> Value:
    """Return a sum of dot products of itself: where pairs are added, such as stay in 16 bits."""
    x = builder.bitcast(total, unit.bytes_type)
    if unit.adds_fours:
        return unit.dot_codes(builder, total, codes, [x] * len(codes))
    words = builder.bitcast(total, ir.VectorType(INT16, 2 * unit.lanes))
    for code in codes:
        words = unit.dot_words(builder, words, code, x)
    return builder.bitcast(words, total.type)


def build_matrix_tiles() -> Callable[[int, int], None]:
    """Return the same for matrix tiles; ``rounds`` is a multiple of TILE_ROUNDS."""

    def generate(context: Context, builder: Builder, _signature: Type, args: Value) -> Value:
        with cgutils.for_range(builder, builder.udiv(args[0], INT64(TILE_ROUNDS))):
            for total in range(TILE_PRODUCTS):
                registers = INT8(total), INT8(TILE_PRODUCTS), INT8(TILE_PRODUCTS + 1)
                call(builder, "llvm.x86.tdpbsud", ir.VoidType(), registers)
        return context.get_dummy_value()

    @intrinsic
    def products(_: Context, rounds: Type) -> Intrinsic:
        return types.void(rounds), generate

    def loop(place: int, rounds: int) -> None:
        shapes = stack_int8(CONFIGURATION)
        describe(shapes, ROWS, ROWS)
        configure(shapes)
        products(rounds)
        release()

    return loop
