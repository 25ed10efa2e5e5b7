"""Products of many tokens with sums of binary matrices: each weight is one of 2^P levels, of int16.

The planes are unpacked to codes, the codes looked up in tables of each row and group: the lower
bytes of the levels, and the upper ones. Both are multiplied as Int8Linear is, or, where bytes are
multiplied no faster than words, the levels as they are.
"""

# mypy: disable-error-code="untyped-decorator"

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from numba.extending import register_jitable

from edgellm.runtime.kernels._bit_planes import ROWS, first_row, last_row
from edgellm.runtime.kernels._jit import PART_POLICY
from edgellm.runtime.kernels._scalar import Int, stack_int8, stack_int32, stack_int64
from edgellm.runtime.kernels._shift_alphas import fill_alphas
from edgellm.runtime.kernels.simd._unit import VectorUnit
from edgellm.runtime.kernels.vector._code_products import (
    CODE_BYTES,
    LEAST_TOKENS,
    PASS,
    SPAN,
    START_WORDS,
    TOTAL_WORDS,
    WIDTH,
    clear,
    fill_starts,
    write_rows,
)
from edgellm.runtime.kernels.vector._codes import translate, unpack
from edgellm.runtime.kernels.vector._levels import (
    ALPHA_WORDS,
    LEVELS,
    fill_levels,
    fits_levels,
)
from edgellm.runtime.kernels.vector._products import int8_multiply
from edgellm.runtime.kernels.vector._tiles import as_matrix
from edgellm.runtime.kernels.vector._views import row_of
from edgellm.runtime.kernels.vector._wide_level_products import wide_block

LEAST_WIDE_TOKENS, LEAST_WIDE_PLANES = 32, 3
"""From so many on words are multiplied faster than planes are looked up. (AVX2, 2560 x 6912, 128
tokens: 515 million instructions for 4 planes, 507 for 3, 499 for 2; look-ups 802, 620, 450. 16
tokens of 4 planes: 109, look-ups 101.)"""
CARRY = 128
"""Lower bytes are signed."""
SUM_COLUMNS = 2 * ROWS
SUM_WORDS = PASS * SUM_COLUMNS

Codes = npt.NDArray[np.int8]
Planes = npt.NDArray[np.uint8]
Alphas = npt.NDArray[np.uint8]
Sums = npt.NDArray[np.int32]
Totals = npt.NDArray[np.int64]
Range = tuple[Int, Int]
Numbers = tuple[Int, Int, Int]
Place = tuple[Int, Int, Int, Int]


def group_look_up(unit: VectorUnit) -> Callable[..., None]:
    """Return ``look_up_group``, see there."""
    look_up = translate(unit)

    @register_jitable(**PART_POLICY)
    def look_up_group(
        codes: Codes,
        halves: tuple[Codes, Codes],
        packed: tuple[Alphas, Int],
        shape: Range,
        place: Range,
        group: Range,
    ) -> None:
        """Look up the levels of a group's codes, which begin and end at these columns.

        packed are the alphas, and the number of the group.
        """
        (first, last), (start, stop) = place, group
        lower, upper = halves
        alphas = stack_int32(ALPHA_WORDS)
        low, high = stack_int8(LEVELS), stack_int8(LEVELS)
        fill_alphas(packed[0], packed[1], shape, place, alphas)
        for row in range(last - first):
            fill_levels(alphas[row:], shape[0], CARRY, low, high)
            own: Codes = row_of(codes, row)[start:]
            look_up(own, stop - start, low, row_of(lower, row)[start:])
            look_up(own, stop - start, high, row_of(upper, row)[start:])

    return look_up_group


def byte_block(unit: VectorUnit) -> Callable[..., None]:
    """Return ``add_block(x, planes, alphas, (first, last, size, terms), starts, totals)``.

    It adds the products of some rows of a block; starts are those of ``fill_starts``.
    """
    multiply, unpack_codes, look_up_group = int8_multiply(unit), unpack(unit), group_look_up(unit)

    @register_jitable(**PART_POLICY)
    def add_block(
        x: Codes,
        planes: Planes,
        alphas: Alphas,
        place: Place,
        starts: Sums,
        out: Totals,
    ) -> None:
        """Add the products of the rows of a block."""
        first, last, size, terms = place
        rows, columns, shape = last - first, x.shape[1], (planes.shape[1], terms)
        unpacked: Codes = as_matrix(stack_int8(CODE_BYTES), WIDTH)
        lower = as_matrix(stack_int8(CODE_BYTES), WIDTH)
        upper = as_matrix(stack_int8(CODE_BYTES), WIDTH)
        sums: Sums = as_matrix(stack_int32(SUM_WORDS), SUM_COLUMNS)
        codes = unpacked[first % ROWS : first % ROWS + rows]
        for column in range(0, columns, SPAN):
            end = min(column + SPAN, columns)
            unpack_codes(planes[column // 8 :], (end - column + 7) // 8, unpacked)
            start = column
            while start < end:
                stop = min((start // size + 1) * size, end)
                at = (start - column, stop - column)
                packed = alphas, start // size
                look_up_group(codes, (lower, upper), packed, shape, (first, last), at)
                start = stop
            part, width, own = x[:, column:end], end - column, starts[column // SPAN * x.shape[0] :]
            multiply(part, lower[:rows, :width], sums[:, :rows], own)
            multiply(part, upper[:rows, :width], sums[:, ROWS : ROWS + rows], own)
            add_halves(sums, out, x.shape[0], rows)

    return add_block


def level_products(unit: VectorUnit) -> Callable[..., bool]:
    """Return ``products(x, planes, alphas, acc, (begin, end), (group_size, shift, terms))``.

    For many tokens and the rows from begin to end: what ShiftAddLinear means. It returns whether it
    did it: not where look-ups are faster, nor where the levels of rows do not fit.
    """
    add_block, least, least_planes = byte_block(unit), LEAST_TOKENS, 1
    if not unit.adds_fours:
        add_block, least, least_planes = wide_block(unit), LEAST_WIDE_TOKENS, LEAST_WIDE_PLANES
    bias = np.int32(unit.byte_bias)

    @register_jitable(**PART_POLICY)
    def products(
        x: Codes, planes: Planes, alphas: Alphas, acc: Sums, rows: Range, numbers: Numbers
    ) -> bool:
        (begin, end), (size, shift, terms) = rows, numbers
        if x.shape[0] < least or planes.shape[2] < least_planes:
            return False
        groups = (x.shape[1] + size - 1) // size
        for block in range(begin // ROWS, (end + ROWS - 1) // ROWS):
            first, last = first_row(block, begin), last_row(block, end)
            if not fits_levels(alphas, groups, (planes.shape[2], terms), first, last):
                return False
        totals: Totals = as_matrix(stack_int64(TOTAL_WORDS), ROWS)
        starts = stack_int32(START_WORDS)
        for t in range(0, x.shape[0], PASS):
            some = x[t : t + PASS]
            fill_starts(some, x.shape[1], bias, starts)
            for block in range(begin // ROWS, (end + ROWS - 1) // ROWS):
                first, last = first_row(block, begin), last_row(block, end)
                clear(totals, some.shape[0])
                place = (first, last, size, terms)
                add_block(some, planes[block], alphas, place, starts, totals)
                write_rows(totals, shift, acc[t : t + PASS], (first, last))
        return True

    return products


@register_jitable(**PART_POLICY)
def add_halves(sums: Sums, totals: Totals, tokens: Int, rows: Int) -> None:
    """Add the products with the lower and the upper bytes."""
    for t in range(tokens):
        own, out = sums[t], totals[t]
        for row in range(rows):
            out[row] += np.int64(own[row]) + (np.int64(own[ROWS + row]) << np.int64(8))
