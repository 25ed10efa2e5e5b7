"""Products of one token with whole rows of ``int8-planes/v1``, as LLVM, on units that turn bits.

All planes of some rows are read at once, 128 columns at a time: two blocks, A and B. The low bits
of both are turned into the nibbles of one vector of bytes, and columns are multiplied in the order
that comes out of that. For 128,256 rows of 2,560 columns one thread of a server of 2024 takes 22
ms, where only to read them takes 20; plane by plane, with a product for each, it took 26.
"""

# mypy: disable-error-code="no-untyped-call,untyped-decorator"
# Numba's internals have no types.

import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

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
    splat_value,
    sum_four,
)
from edgellm.runtime.kernels.vector._planes import PLANES
from edgellm.runtime.kernels.vector._tiles import (
    LINE_BYTES,
    bytes_of,
    matrix_rows,
    open_arrays,
    prefetch,
)

ROWS = 4
"""Of a tile: three sums each stay in registers."""
PAIR = 2 * BLOCK
"""Columns that are multiplied at once."""
LOWER, UPPER = 0x0F, 0xF0

Codes = npt.NDArray[np.int8]


def arrange(x: Codes, out: Codes) -> None:
    """Write the codes of a token, (K,) with K a multiple of PAIR, as ``whole_tile`` takes them.

    For each pair of blocks: columns 0 to 31 of both, then 32 to 63 of both, as the high nibbles
    are; then those of A, and of B, in the order of turned bits, where 8 b + p is what 8 p + b was.
    """
    half = BLOCK // 2
    for first in range(0, x.shape[0], PAIR):
        pair, place = x[first : first + PAIR], out[2 * first : 2 * first + 2 * PAIR]
        for k in range(half):
            place[k], place[half + k] = pair[k], pair[BLOCK + k]
            place[BLOCK + k], place[BLOCK + half + k] = pair[half + k], pair[BLOCK + half + k]
        for b in range(8):
            for p in range(8):
                place[PAIR + 8 * b + p] = pair[8 * p + b]
                place[PAIR + BLOCK + 8 * b + p] = pair[BLOCK + 8 * p + b]


def whole_tile(unit: VectorUnit) -> Intrinsic:
    """Return the intrinsic ``tile(x, high, low, v, start, sums)``.

    It writes to ``sums[v]`` and the next, ROWS in all, ``start`` and the products of rows of
    weights + 128 with x, as ``arrange`` has it.
    """

    def generate(context: Context, builder: Builder, signature: Type, args: Values) -> Value:
        x, high, low = open_arrays(context, builder, signature, args[:3])
        v, start, sums = args[3:]
        out = context.make_array(signature.args[5])(context, builder, sums)
        row_bytes = cgutils.unpack_tuple(builder, high.strides)[0]
        nibbles, bits = matrix_rows(builder, high, v, ROWS), _bit_rows(builder, low, v)
        totals = [_zeros(builder, unit) for _ in range(ROWS)]
        after = builder.add(v, INT64(ROWS))
        wanted = matrix_rows(builder, high, after, 1)[0], _bit_rows(builder, low, after)[0]
        with cgutils.for_range(builder, builder.udiv(row_bytes, INT64(BLOCK))) as loop:
            codes = move(builder, bytes_of(builder, x), builder.mul(loop.index, INT64(2 * PAIR)))
            xs = [
                load_vector(builder, move(builder, codes, INT64(BLOCK * i)), unit.bytes_type)
                for i in range(4)
            ]
            at = builder.mul(loop.index, INT64(BLOCK))
            bit_at = builder.mul(loop.index, INT64(PAIR // 8))
            _expect(builder, wanted, loop.index)
            for row, planes, own in zip(nibbles, bits, totals, strict=True):
                packed = load_vector(builder, move(builder, row, at), unit.bytes_type)
                turned = _turn(builder, unit, [move(builder, plane, bit_at) for plane in planes])
                _add(builder, unit, own, (packed, turned), xs)
        results = [_total(builder, own) for own in totals]
        four = sum_four(builder, results)
        four = builder.add(four, splat_value(builder, start, ROWS))
        place = builder.bitcast(builder.gep(out.data, [v]), four.type.as_pointer())
        builder.store(four, place, align=4)
        return context.get_dummy_value()

    @intrinsic
    def tile(
        _: Context, x: Type, high: Type, low: Type, v: Type, start: Type, sums: Type
    ) -> Intrinsic:
        return types.void(x, high, low, types.int64, types.int32, sums), generate

    return tile


def _bit_rows(builder: Builder, low: Value, v: Value) -> list[list[Value]]:
    """Return for each of ROWS rows where it begins in each plane."""
    plane_bytes, row_bytes, _ = cgutils.unpack_tuple(builder, low.strides)
    first = move(builder, bytes_of(builder, low), builder.mul(row_bytes, v))
    starts = [move(builder, first, builder.mul(plane_bytes, INT64(q))) for q in range(PLANES)]
    return [
        [move(builder, start, builder.mul(row_bytes, INT64(i))) for start in starts]
        for i in range(ROWS)
    ]


def _expect(builder: Builder, rows: tuple[Value, Values], index: Value) -> None:
    """Begin to read a part of what the next tile wants, in the order of memory.

    Without that, the rows of a tile are as many streams as it has rows and planes: 29 ms.
    """
    nibbles, bits = rows
    at = builder.mul(index, INT64(ROWS * LINE_BYTES))
    for i in range(ROWS):
        prefetch(builder, move(builder, nibbles, builder.add(at, INT64(i * LINE_BYTES))))
    for row in bits:
        place = builder.mul(index, INT64(ROWS * PAIR // 8))
        prefetch(builder, move(builder, row, place))


def _zeros(builder: Builder, unit: VectorUnit) -> list[Value]:
    zero = ir.Constant(unit.totals_type, None)
    return [cgutils.alloca_once_value(builder, zero) for _ in range(3)]


def _turn(builder: Builder, unit: VectorUnit, planes: Values) -> Value:
    """Return the low bits of two blocks: nibbles of A, and of B 16 times."""
    kind = ir.VectorType(INT8, PAIR // 8)
    a, b, c, d = (load_vector(builder, plane, kind) for plane in planes)
    lower, upper = shuffle(builder, a, b, range(32)), shuffle(builder, c, d, range(32))
    # ``turn_bits`` makes bit i of byte 7 - i: the lowest of the last, where the last plane of A is.
    order = [
        16 * plane + 8 * block + byte
        for byte in range(8)
        for block in (1, 0)
        for plane in range(PLANES)
    ]
    return unit.turn_bits(builder, shuffle(builder, lower, upper, order))


def _add(
    builder: Builder, unit: VectorUnit, totals: Values, codes: tuple[Value, Value], xs: Values
) -> None:
    """Add the products of 128 columns; the sums are to be times 16, as they are, and 16ths."""
    nibbles, turned = codes
    for i, vector, mask, x in (
        (0, nibbles, LOWER, xs[0]),
        (1, nibbles, UPPER, xs[1]),
        (1, turned, LOWER, xs[2]),
        (2, turned, UPPER, xs[3]),
    ):
        masked = builder.and_(vector, splat(vector.type, mask))
        builder.store(unit.dot_codes(builder, builder.load(totals[i]), [masked], [x]), totals[i])


def _total(builder: Builder, totals: Values) -> Value:
    large, plain, small = (builder.load(total) for total in totals)
    four = splat(large.type, 4)
    parts = builder.add(builder.shl(large, four), builder.ashr(small, four))
    return builder.add(parts, plain)
