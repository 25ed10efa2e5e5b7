"""Products of many tokens with rows of ternary weights, ternary-2bit/v1, by look-ups.

A look-up takes a byte of each of many rows, so that rows are turned first, 64 at once. A byte of a
row has codes of four columns, 16 apart: what two neighbours have makes one byte of the lower plane,
and one of the upper, of eight columns.
"""

# mypy: disable-error-code="no-untyped-call,untyped-decorator"
# Numba's internals have no types.

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic, register_jitable

from edgellm.runtime.kernels._bit_planes import sum_of_magnitudes
from edgellm.runtime.kernels._jit import PART_POLICY
from edgellm.runtime.kernels._scalar import Int, stack_int8, stack_int32, stack_uint8
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
    splat,
)
from edgellm.runtime.kernels.vector._look_up_products import (
    ENDS,
    LEAST_SPAN,
    MAX_TOKENS,
    MORE,
    MORE_STEPS,
    SPAN,
    TABLES,
    Tables,
    add_token,
    block_product,
    columns_at_once,
    has_room,
    tokens_beside,
)
from edgellm.runtime.kernels.vector._look_up_tables import LANE
from edgellm.runtime.kernels.vector._ternary_look_ups import OCTET_BYTES, TOGETHER
from edgellm.runtime.kernels.vector._tiles import as_matrix, bytes_of, matrix_rows, open_arrays
from edgellm.ternary_planes import COLUMNS, PLANES, ROWS

BLOCK_BYTES = BLOCK // 4
FIELDS = 4
"""Codes of a byte."""
OCTETS = BLOCK // COLUMNS
KEYS = SPAN // COLUMNS * OCTET_BYTES
LEAST_TOKENS = TOGETHER
"""From so many tokens on, turning pays."""
LOWER, UPPER = 0x55, 0xAA
"""The bits of codes."""

Codes = npt.NDArray[np.int8]
Packed = npt.NDArray[np.uint8]
Sums = npt.NDArray[np.int32]


def row_turner(unit: VectorUnit) -> Intrinsic:
    """Return ``turn(packed, (n, begin, blocks), keys)``: lay 64 rows from n out for look-ups.

    Their blocks from the byte ``begin`` on become octets of keys, (8 * blocks, 128), each of the
    columns that ``arrange`` names.
    """
    rows_at_once = 4 * unit.lanes

    def generate(context: Context, builder: Builder, signature: Type, args: Values) -> Value:
        kinds = types.void(signature.args[0], signature.args[2])
        source, out = open_arrays(context, builder, kinds, [args[0], args[2]])
        n, begin, blocks = cgutils.unpack_tuple(builder, args[1])
        with cgutils.for_range(builder, blocks) as loop:
            column = builder.add(begin, builder.mul(loop.index, INT64(BLOCK_BYTES)))
            octets = builder.mul(loop.index, INT64(OCTETS * OCTET_BYTES))
            target = move(builder, bytes_of(builder, out), octets)
            with cgutils.for_range(builder, INT64(ROWS // rows_at_once)) as part:
                row = builder.mul(part.index, INT64(rows_at_once))
                rows = matrix_rows(builder, source, builder.add(n, row), rows_at_once)
                at = move(builder, target, builder.mul(row, INT64(PLANES)))
                _turn(builder, [move(builder, one, column) for one in rows], at)
        return context.get_dummy_value()

    @intrinsic
    def turn(_: Context, packed: Type, place: Type, keys: Type) -> Intrinsic:
        return types.void(packed, place, keys), generate

    return turn


def _turn(builder: Builder, rows: Values, target: Value) -> None:
    """Write the keys of a block of some rows, a vector of bytes: both planes of a row in turn."""
    columns = _transpose(builder, rows)
    sides = [i + len(rows) * plane for i in range(len(rows)) for plane in range(PLANES)]
    for octet in range(OCTETS):
        first, second = columns[2 * octet : 2 * octet + 2]
        lower = builder.or_(_masked(builder, first, LOWER), _higher(builder, second))
        upper = builder.or_(_lower(builder, first), _masked(builder, second, UPPER))
        keys = shuffle(builder, builder.or_(lower, upper), upper, sides)
        place = move(builder, target, INT64(octet * OCTET_BYTES))
        builder.store(keys, builder.bitcast(place, keys.type.as_pointer()), align=1)


def _transpose(builder: Builder, rows: Values) -> list[Value]:
    """Return byte i of each row, as vector i of 16: four times, the halves are interleaved.

    A part of a vector, of 16 bytes, is for 16 rows.
    """
    kind, half, width = ir.VectorType(INT8, LANE), LANE // 2, len(rows)
    vectors = [load_vector(builder, row, kind) for row in rows]
    if width > LANE:
        both = range(2 * LANE)
        vectors = [shuffle(builder, *vectors[i::LANE], both) for i in range(LANE)]
    orders = [
        [
            part + i + width * k
            for part in range(0, width, LANE)
            for i in range(start, start + half)
            for k in (0, 1)
        ]
        for start in (0, half)
    ]
    for _ in range(4):
        vectors = [
            shuffle(builder, vectors[i], vectors[i + half], order)
            for i in range(half)
            for order in orders
        ]
    return vectors


def _masked(builder: Builder, vector: Value, mask: int) -> Value:
    return builder.and_(vector, splat(vector.type, mask))


def _higher(builder: Builder, vector: Value) -> Value:
    """Return the lower bits of codes in the place of the upper ones."""
    bits = _masked(builder, vector, LOWER)
    return builder.add(bits, bits)


def _lower(builder: Builder, vector: Value) -> Value:
    """Return the upper bits of codes in the place of the lower ones."""
    # There is no shift of bytes. In longer lanes none gets a bit of its neighbour.
    wide = ir.VectorType(INT64, vector.type.count // 8)
    bits = builder.bitcast(_masked(builder, vector, UPPER), wide)
    return builder.bitcast(builder.lshr(bits, splat(wide, 1)), vector.type)


def arrange(x: Codes, out: Codes) -> None:
    """Write the columns of a token, whole blocks, in the order in which rows are turned."""
    for begin in range(0, x.shape[0], BLOCK):
        block, place = x[begin : begin + BLOCK], out[begin : begin + BLOCK]
        for octet in range(OCTETS):
            for field in range(FIELDS):
                column = field * LANE + 2 * octet
                place[COLUMNS * octet + 2 * field] = block[column]
                place[COLUMNS * octet + 2 * field + 1] = block[column + 1]


def multiply_by_look_ups(unit: VectorUnit, few: Callable[..., None]) -> Callable[..., None]:
    """Return ``multiply(x, rest, weight, acc, starts)`` as ``few`` is.

    It turns weights where there are rows and tokens enough.
    """
    multiply_block, turn = block_product(unit), row_turner(unit)

    @register_jitable(**PART_POLICY)
    def add_tokens(tables: Tables, x: Codes, rest: Codes, place: tuple[Int, Int]) -> Int:
        """Make tables of as many tokens as there is room for, of columns of a place."""
        begin, blocks = place
        row = stack_int8(SPAN)[: blocks * BLOCK]
        whole = min(x.shape[1] // BLOCK * BLOCK, begin + blocks * BLOCK)
        count = 0
        while count < x.shape[0] and has_room(tables, count, blocks * OCTETS):
            arrange(x[count, begin:whole], row)
            if whole < begin + blocks * BLOCK:
                arrange(rest[count], row[whole - begin :])
            add_token(tables, row, count)
            if begin == 0:
                tables.starts[count] = -sum_of_magnitudes(x[count])
            count += 1
        return count

    @register_jitable(**PART_POLICY)
    def multiply(x: Codes, rest: Codes, weight: Packed, acc: Sums, starts: Sums) -> None:
        rows = weight.shape[0] // ROWS * ROWS if x.shape[0] >= LEAST_TOKENS else 0
        if rows < weight.shape[0]:
            few(x, rest, weight[rows:], acc[:, rows:], starts)
        tables = Tables(
            stack_uint8(TABLES),
            stack_uint8(MORE),
            stack_int32(MORE_STEPS),
            stack_int32(ENDS),
            stack_int32(MAX_TOKENS),
            tokens_beside(x.shape[0]),
        )
        keys: Packed = as_matrix(stack_uint8(KEYS), OCTET_BYTES)
        columns = (x.shape[1] + BLOCK - 1) // BLOCK * BLOCK
        # Many tokens on few columns: rows are turned for all of them at once.
        span = columns_at_once(x.shape[0], LEAST_SPAN)
        for begin in range(0, columns if rows > 0 else 0, span):
            blocks = min(span, columns - begin) // BLOCK
            first = 0
            while first < x.shape[0]:
                count = add_tokens(tables, x[first:], rest[first:], (begin, blocks))
                out = acc[first : first + count]
                for n in range(0, rows, ROWS):
                    turn(weight, (n, begin // FIELDS, blocks), keys)
                    own, sums = keys[: blocks * OCTETS], out[:, n : n + ROWS]
                    multiply_block(own, tables, begin == 0, sums)
                first += count

    return multiply
