"""Products of one token with planes of int8 weights, as LLVM, on units that do not turn bits.

As many columns are multiplied at once as a vector of each plane has bits. In each byte of the four
vectors of low bits, bits change places until the four planes of a column are a nibble: 24
instructions for 256 columns of AVX2, where a product for each plane takes 112.
"""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba.extending import register_jitable

from edgellm.runtime.kernels._jit import PART_POLICY
from edgellm.runtime.kernels._scalar import Int
from edgellm.runtime.kernels.simd._unit import (
    BLOCK,
    INT16,
    INT64,
    Builder,
    Value,
    Values,
    VectorUnit,
    load_vector,
    move,
    splat,
)
from edgellm.runtime.kernels.vector._planes import WHOLE_ROWS

SUMS = 2
"""Of high nibbles, which are to be times 16, and of low ones."""
BITS = 8
"""Of a byte: columns of a plane."""
NIBBLES = 2
"""Of a byte."""

Codes = npt.NDArray[np.int8]


def rows_beside(unit: VectorUnit) -> int:
    """Return how many rows are multiplied side by side: where registers are few, one.

    Activations that several share would go to the stack and back there.
    """
    return WHOLE_ROWS if unit.tokens >= WHOLE_ROWS else 1


def columns_at_once(unit: VectorUnit) -> int:
    """Return how many columns are multiplied at once."""
    return BITS * 4 * unit.lanes


def arrange_for(unit: VectorUnit) -> Callable[[Codes, Codes], None]:
    """Return ``arrange(x, out)``: write the codes of a token, (K,), as ``add_columns`` takes them.

    K is a multiple of BLOCK, and no less than ``columns_at_once``; the last of these overlap those
    before, with zeros for what was multiplied already. Each vector of high nibbles has its lower
    ones and its upper ones, then each of swapped bits.
    """
    columns, width = columns_at_once(unit), 4 * unit.lanes
    half = BLOCK // NIBBLES

    @register_jitable(**PART_POLICY)
    def column_of(vector: Int, byte: Int, upper: Int) -> Int:
        """Return the column of a nibble; the vectors of swapped bits follow those of nibbles."""
        if vector < BITS // NIBBLES:
            place = vector * width + byte
            return place // half * BLOCK + upper * half + place % half
        bit = vector - BITS // NIBBLES + upper * (BITS // NIBBLES)
        return byte // BITS * BLOCK + bit * BITS + byte % BITS

    @register_jitable(**PART_POLICY)
    def arrange(x: Codes, out: Codes) -> None:
        at: Int = 0
        for begin in range(0, x.shape[0], columns):
            first = min(begin, x.shape[0] - columns)
            for vector in range(BITS):
                for upper in range(NIBBLES):
                    for byte in range(width):
                        column = first + column_of(vector, byte, upper)
                        out[at] = x[column] if column >= begin else np.int8(0)
                        at += 1

    return arrange


def add_columns(
    builder: Builder, unit: VectorUnit, totals: Values, row: tuple[Value, Values], x: Value
) -> None:
    """Add to two sums the products of high nibbles and of low bits; see ``columns_at_once``.

    A row is where its nibbles are, and its bits in each plane, the highest first.
    """
    nibbles, planes = row
    width = 4 * unit.lanes
    vectors = [
        load_vector(builder, move(builder, nibbles, INT64(i * width)), unit.bytes_type)
        for i in range(BITS // NIBBLES)
    ]
    bits = [load_vector(builder, plane, unit.bytes_type) for plane in planes]
    at = 0
    for total, packed in zip(totals, (vectors, _swap(builder, bits)), strict=True):
        codes = [code for vector in packed for code in _nibbles(builder, vector)]
        places = [move(builder, x, INT64(at + i * width)) for i in range(BITS)]
        xs = [load_vector(builder, place, unit.bytes_type) for place in places]
        builder.store(unit.dot_codes(builder, builder.load(total), codes, xs), total)
        at += BITS * width


def _swap(builder: Builder, planes: Values) -> list[Value]:
    """Return vectors whose lower nibbles have bit i of four planes, and the upper bit i + 4.

    Bits that are neighbours change places first, then pairs.
    """
    a, b, c, d = planes
    odd_ab, even_ab = _exchange(builder, a, b, 1, 0x55)
    odd_cd, even_cd = _exchange(builder, c, d, 1, 0x55)
    third, first = _exchange(builder, even_ab, even_cd, 2, 0x33)
    fourth, second = _exchange(builder, odd_ab, odd_cd, 2, 0x33)
    return [first, second, third, fourth]


def _exchange(
    builder: Builder, a: Value, b: Value, distance: int, mask: int
) -> tuple[Value, Value]:
    """Exchange the bits of a that a mask has with those of b so much higher.

    There is no shift of bytes on some units; in words the mask drops what comes from a neighbour.
    """
    kind = a.type
    words = ir.VectorType(INT16, kind.count // 2)
    a, b = builder.bitcast(a, words), builder.bitcast(b, words)
    shift = splat(words, distance)
    changed = builder.and_(builder.xor(builder.lshr(b, shift), a), splat(words, 0x0101 * mask))
    a, b = builder.xor(a, changed), builder.xor(b, builder.shl(changed, shift))
    return builder.bitcast(a, kind), builder.bitcast(b, kind)


def _nibbles(builder: Builder, vector: Value) -> list[Value]:
    """Return the lower and the upper nibbles of bytes."""
    return [
        builder.and_(vector, splat(vector.type, 0x0F)),
        builder.lshr(vector, splat(vector.type, 4)),
    ]


def total_of(builder: Builder, totals: Values) -> Value:
    """Return the whole sum."""
    high, low = (builder.load(total) for total in totals)
    return builder.add(builder.shl(high, splat(high.type, 4)), low)
