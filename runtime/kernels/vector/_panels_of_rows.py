"""Products of many rows with keys and with values, as LLVM: panels straight from the cache.

A panel of keys is one of int8 weights. In one of values, rows of the cache are what columns are
elsewhere: four bytes of a lane are of four rows, which are interleaved. See ``_panels``.
"""

# mypy: disable-error-code="no-untyped-call,untyped-decorator,call-arg"
# Numba's internals have no types. An intrinsic is declared with the typing context as its first
# argument, and called without.

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic, register_jitable

from edgellm.runtime.kernels._jit import PART_POLICY
from edgellm.runtime.kernels._scalar import Int, stack_int8
from edgellm.runtime.kernels.simd._unit import (
    BLOCK,
    INT8,
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
    shuffle,
)
from edgellm.runtime.kernels.vector._amx import (
    CONFIGURATION,
    ROWS,
    SIGNED,
    Tile,
    configure,
    describe,
    release,
)
from edgellm.runtime.kernels.vector._amx import TOKENS as MATRIX_TOKENS
from edgellm.runtime.kernels.vector._panels import (
    ROW_GROUPS,
    TOKENS,
    Panels,
    int8_panels,
    signed_panels,
)
from edgellm.runtime.kernels.vector._tiles import bytes_of, matrix_rows, open_arrays, row_stride

TALL = MATRIX_TOKENS
"""Rows come in multiples of it: whole tiles of every unit."""
GROUP = 4
"""Rows of the cache whose bytes a lane has."""

Bytes = npt.NDArray[np.int8]
Sums = npt.NDArray[np.int32]
Place = tuple[Int, Int, Int]
Sweep = Callable[[Bytes, Bytes, Sums, Place], None]


def panels_of_keys(unit: VectorUnit) -> Panels:
    """Return how keys get into panels, as ``sweeps`` multiplies them."""
    return signed_panels(unit) if unit.matrix_tiles else int8_panels(unit)


def fill_values(layout: Panels) -> Intrinsic:
    """Return the intrinsic ``fill(value, panel, first, count, column)``.

    It lays out the columns of a panel from ``column`` on, of ``count`` rows of values from
    ``first``, a multiple of four; behind the last row that one is repeated.
    """
    lanes = layout.unit.lanes

    def generate(context: Context, builder: Builder, signature: Type, args: Values) -> Value:
        value, panel = open_arrays(context, builder, signature, args[:2])
        first, count, column = args[2:]
        stride, out = row_stride(builder, value), bytes_of(builder, panel)
        begin = move(builder, bytes_of(builder, value), column)
        last = builder.sub(cgutils.unpack_tuple(builder, value.shape)[0], INT64(1))
        with cgutils.for_range(builder, builder.udiv(count, INT64(GROUP))) as loop:
            row = builder.add(first, builder.mul(loop.index, INT64(GROUP)))
            places = []
            for i in range(GROUP):
                number = builder.add(row, INT64(i))
                is_there = builder.icmp_signed("<", number, last)
                number = builder.select(is_there, number, last)
                places.append(move(builder, begin, builder.mul(number, stride)))
            target = move(builder, out, builder.mul(loop.index, INT64(GROUP * layout.rows)))
            for group in range(ROW_GROUPS):
                at = [move(builder, place, INT64(group * lanes)) for place in places]
                (vector,) = layout.spread(builder, [_interleave(builder, at, lanes)])
                here = move(builder, target, INT64(group * GROUP * lanes))
                builder.store(vector, builder.bitcast(here, vector.type.as_pointer()), align=1)
        return context.get_dummy_value()

    @intrinsic
    def fill(
        _: Context, value: Type, panel: Type, first: Type, count: Type, column: Type
    ) -> Intrinsic:
        return types.void(value, panel, types.int64, types.int64, types.int64), generate

    return fill


def _interleave(builder: Builder, places: Values, size: int) -> Value:
    """Return one vector: bytes 4b to 4b + 3 are byte b at each of four places."""
    a, b, c, d = (load_vector(builder, place, ir.VectorType(INT8, size)) for place in places)
    pairs = [i for byte in range(size) for i in (byte, size + byte)]
    words = ir.VectorType(ir.IntType(16), size)
    low, high = (
        builder.bitcast(shuffle(builder, *pair, pairs), words) for pair in ((a, b), (c, d))
    )
    return builder.bitcast(shuffle(builder, low, high, pairs), ir.VectorType(INT8, 4 * size))


@intrinsic
def clear(_: Context, row: Type, begin: Type, end: Type) -> Intrinsic:
    """``clear(row, begin, end)``: zeros in a row of bytes, and up to a block behind the end."""

    def generate(context: Context, builder: Builder, signature: Type, args: Values) -> Value:
        (array,) = open_arrays(context, builder, signature, args[:1])
        kind = ir.VectorType(INT8, BLOCK)
        with cgutils.for_range_slice(builder, args[1], args[2], INT64(BLOCK), INT64) as (at, _):
            place = move(builder, bytes_of(builder, array), at)
            zeros = ir.Constant(kind, None)
            builder.store(zeros, builder.bitcast(place, kind.as_pointer()), align=1)
        return context.get_dummy_value()

    return types.void(row, types.int64, types.int64), generate


@intrinsic
def clear_columns(_: Context, sums: Type, n: Type, count: Type) -> Intrinsic:
    """``clear_columns(sums, n, count)``: zeros in so many columns of all rows from n on."""

    def generate(context: Context, builder: Builder, signature: Type, args: Values) -> Value:
        (array,) = open_arrays(context, builder, signature, args[:1])
        rows = cgutils.unpack_tuple(builder, array.shape)[0]
        size, begin = builder.mul(args[2], INT64(4)), builder.mul(args[1], INT64(4))
        with cgutils.for_range(builder, rows) as loop:
            (row,) = matrix_rows(builder, array, loop.index, 1)
            cgutils.memset(builder, move(builder, row, begin), size, 0)
        return context.get_dummy_value()

    return types.void(sums, types.int64, types.int64), generate


def bias_of(unit: VectorUnit) -> int:
    """Return what panels of int8 add to a weight."""
    return 0 if unit.matrix_tiles else unit.byte_bias


def tile_registers(unit: VectorUnit) -> tuple[Callable[[], None], Callable[[], None]]:
    """Return ``begin()`` and ``end()``, between which a unit's products can be made."""

    @register_jitable(**PART_POLICY)
    def begin() -> None:
        shape = stack_int8(CONFIGURATION)
        describe(shape, ROWS, ROWS)
        configure(shape)

    @register_jitable(**PART_POLICY)
    def end() -> None:
        release()

    @register_jitable(**PART_POLICY)
    def nothing() -> None:
        return

    return (begin, end) if unit.matrix_tiles else (nothing, nothing)


def sweeps(unit: VectorUnit) -> tuple[Sweep, Sweep]:
    """Return ``write(x, panel, sums, (n, k, count))`` and ``add``, which adds to the sums.

    The product of ``count`` columns of all rows of x from k on, a multiple of 64, with a panel, is
    what the columns of sums from n on get. The rows are whole tiles (``TALL``). To each weight
    ``bias_of(unit)`` is added. Between ``begin`` and ``end`` of ``tile_registers`` only.
    """
    if unit.matrix_tiles:
        fresh, begun = (Tile(2, SIGNED, is_fresh).build() for is_fresh in (True, False))
        return _sweep(fresh, MATRIX_TOKENS), _sweep(begun, MATRIX_TOKENS)
    layout = int8_panels(unit)
    add, rows = _sweep(layout.tile(), TOKENS), layout.rows

    @register_jitable(**PART_POLICY)
    def write(x: Bytes, panel: Bytes, sums: Sums, place: Place) -> None:
        clear_columns(sums, place[0], rows)
        add(x, panel, sums, place)

    return write, add


def _sweep(tile: Intrinsic, tokens: int) -> Sweep:
    @register_jitable(**PART_POLICY)
    def run(x: Bytes, panel: Bytes, sums: Sums, place: Place) -> None:
        n, k, count = place
        for t in range(0, x.shape[0], tokens):
            tile(x, panel, sums, t, n, k, count)

    return run
