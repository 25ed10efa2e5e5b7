"""Products of one token with planes of int8 weights, as LLVM, on units that turn bits.

128 columns are multiplied at once: two blocks, A and B. The low bits of both are turned into the
nibbles of one vector of bytes, and columns are multiplied in the order that comes out of that.
"""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba.extending import register_jitable

from edgellm.runtime import cpu
from edgellm.runtime.kernels._jit import PART_POLICY
from edgellm.runtime.kernels.simd._unit import (
    BLOCK,
    INT8,
    INT64,
    Builder,
    Value,
    Values,
    VectorUnit,
    load_vector,
    move,
    shuffle,
    splat,
)
from edgellm.runtime.kernels.vector._planes import PLANES, WHOLE_ROWS

SUMS = 3
"""That are to be times 16, as they are, and 16ths."""
ROWS_BESIDE = {"znver4": 1, "znver5": 1}.get(cpu.host().name, WHOLE_ROWS)
"""Rows that are multiplied side by side. (128,256 rows of 2,560 columns: one by one, one thread of
Zen 5 takes 0.88 to 0.96 of the time of four side by side, two threads as long; of Zen 4, 0.9.)"""
PAIR = 2 * BLOCK
LOWER, UPPER = 0x0F, 0xF0

Codes = npt.NDArray[np.int8]


def rows_beside(unit: VectorUnit) -> int:
    """Return how many rows are multiplied side by side."""
    return ROWS_BESIDE


def columns_at_once(unit: VectorUnit) -> int:
    """Return how many columns are multiplied at once."""
    return PAIR


def arrange_for(unit: VectorUnit) -> Callable[[Codes, Codes], None]:
    """Return ``arrange(x, out)``: write the codes of a token, (K,), as ``add_columns`` takes them.

    K is a multiple of BLOCK, at least PAIR; where the last pair overlaps the one before, it has
    zeros for what was multiplied already. For each pair of blocks: columns 0 to 31 of both, then 32
    to 63 of both, as the high nibbles are; then those of A, and of B, in the order of turned bits,
    where 8 b + p is what 8 p + b was.
    """
    half = BLOCK // 2

    @register_jitable(**PART_POLICY)
    def arrange(x: Codes, out: Codes) -> None:
        for begin in range(0, x.shape[0], PAIR):
            place = out[2 * begin : 2 * begin + 2 * PAIR]
            for block in range(2):
                first = min(begin, x.shape[0] - PAIR) + block * BLOCK
                is_new = first >= begin
                for k in range(half):
                    place[block * half + k] = x[first + k] if is_new else 0
                    place[BLOCK + block * half + k] = x[first + half + k] if is_new else 0
                for b in range(8):
                    for p in range(8):
                        at = PAIR + block * BLOCK + 8 * b + p
                        place[at] = x[first + 8 * p + b] if is_new else 0

    return arrange


def add_columns(
    builder: Builder, unit: VectorUnit, totals: Values, row: tuple[Value, Values], x: Value
) -> None:
    """Add the products of 128 columns to SUMS sums at pointers.

    A row is where its nibbles are, and its bits in each plane, the highest first.
    """
    nibbles = load_vector(builder, row[0], unit.bytes_type)
    turned = _turn(builder, unit, row[1])
    for n, (i, vector, mask) in enumerate(
        ((0, nibbles, LOWER), (1, nibbles, UPPER), (1, turned, LOWER), (2, turned, UPPER))
    ):
        codes = builder.and_(vector, splat(vector.type, mask))
        own = load_vector(builder, move(builder, x, INT64(n * BLOCK)), unit.bytes_type)
        builder.store(unit.dot_codes(builder, builder.load(totals[i]), [codes], [own]), totals[i])


def total_of(builder: Builder, totals: Values) -> Value:
    """Return the whole sum."""
    large, plain, small = (builder.load(total) for total in totals)
    four = splat(large.type, 4)
    parts = builder.add(builder.shl(large, four), builder.ashr(small, four))
    return builder.add(parts, plain)


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
