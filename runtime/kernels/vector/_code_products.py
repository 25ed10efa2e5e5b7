"""Products of many tokens with the codes of planes of bits: unpacked to int8, then multiplied.

A span of columns of 64 rows is unpacked once for PASS tokens, and multiplied as Int8Linear is.
"""

# mypy: disable-error-code="untyped-decorator"

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from numba.extending import register_jitable

from edgellm.runtime.kernels._bit_planes import ROWS, write_rounded
from edgellm.runtime.kernels._jit import PART_POLICY
from edgellm.runtime.kernels._scalar import Int, stack_int8, stack_int32, stack_int64
from edgellm.runtime.kernels.simd._unit import VectorUnit
from edgellm.runtime.kernels.vector._codes import unpack
from edgellm.runtime.kernels.vector._products import int8_product
from edgellm.runtime.kernels.vector._tiles import as_matrix
from edgellm.runtime.kernels.vector._views import row_of

LEAST_TOKENS = 4
"""From so many tokens on it pays to unpack."""
PASS = 128
"""Tokens that there is scratch memory for."""
SPAN = 1024
"""Columns that are unpacked at once, 64 KiB."""
WIDTH = SPAN + 64
"""With room for what makes up the last vector of a row."""
CODE_BYTES = ROWS * WIDTH
MOST_PARTS = 8
"""Groups of a span."""
SUM_COLUMNS = MOST_PARTS * ROWS
SUM_WORDS = PASS * SUM_COLUMNS
TOTAL_WORDS = PASS * ROWS
MOST_ZERO = 128
MOST_BITS = 7
"""With these, codes less their zero are int8."""

Codes = npt.NDArray[np.int8]
Planes = npt.NDArray[np.uint8]
Sums = npt.NDArray[np.int32]
Grid = tuple[npt.NDArray[np.int16], npt.NDArray[np.uint8]]
Range = tuple[Int, Int]


def fits_bytes(bits: Int, zero: npt.NDArray[np.uint8], begin: Int, end: Int) -> bool:
    """Tell whether the codes of rows less their zeros are int8."""
    largest = 0
    for group in range(zero.shape[0]):
        for row in zero[group][begin:end]:
            largest = max(largest, row)
    return bits <= MOST_BITS and largest <= MOST_ZERO


def group_products(unit: VectorUnit) -> Callable[..., None]:
    """Return ``products(x, planes, grid, acc, (first, last), (group_size, shift))``.

    For many tokens and these rows, of one block: what GroupLinear means. planes are those of the
    block, grid are the scales and zeros.
    """
    product, unpack_codes = int8_product(unit), unpack(unit)

    @register_jitable(**PART_POLICY)
    def multiply_span(
        x: Codes, codes: Codes, sums: Sums, zero: npt.NDArray[np.uint8], place: tuple[Int, Int, Int]
    ) -> None:
        """Write the product of each group, codes less zero, to columns of its own."""
        first, group, size = place
        rows = codes.shape[0]
        for start in range(0, x.shape[1], size):
            stop = min(start + size, x.shape[1])
            for row in range(rows):
                subtract(row_of(codes, row)[start:stop], zero[group, first + row])
            out = start // size * ROWS
            product(x[:, start:stop], codes[:, start:stop], sums[:, out : out + rows])
            group += 1

    @register_jitable(**PART_POLICY)
    def products(
        x: Codes, planes: Planes, grid: Grid, acc: Sums, place: Range, numbers: Range
    ) -> None:
        (scale, zero), (first, last), (size, shift) = grid, place, numbers
        whole: Codes = as_matrix(stack_int8(CODE_BYTES), WIDTH)
        codes = whole[first % ROWS : first % ROWS + last - first]
        sums: Sums = as_matrix(stack_int32(SUM_WORDS), SUM_COLUMNS)
        totals = as_matrix(stack_int64(TOTAL_WORDS), ROWS)
        for start in range(0, x.shape[0], PASS):
            some = x[start : start + PASS]
            clear(totals, some.shape[0])
            column = 0
            while column < x.shape[1]:
                group = column // size
                stop = end_of_span(column, size, x.shape[1])
                unpack_codes(planes[column // 8 :], (stop - column + 7) // 8, whole)
                multiply_span(some[:, column:stop], codes, sums, zero, (first, group, size))
                groups = (stop - column + size - 1) // size
                for t in range(some.shape[0]):
                    add_scaled(sums[t], scale[group : group + groups], place, totals[t])
                column = stop
            write_rows(totals, shift, acc[start : start + PASS], place)

    return products


@register_jitable(**PART_POLICY)
def end_of_span(column: Int, size: Int, columns: Int) -> Int:
    """Return where the columns end that are unpacked together: whole groups, or a part of one."""
    if size > SPAN:
        stop = min(column + SPAN, (column // size + 1) * size)
    else:
        stop = column + min(SPAN // size, MOST_PARTS) * size
    return min(stop, columns)


@register_jitable(**PART_POLICY)
def subtract(codes: Codes, zero: np.uint8) -> None:
    """Subtract the zero of a row from its codes."""
    for k in range(codes.shape[0]):
        codes[k] = np.int8(codes[k] - np.int8(zero))


@register_jitable(**PART_POLICY)
def add_scaled(
    sums: Sums, scale: npt.NDArray[np.int16], place: Range, totals: npt.NDArray[np.int64]
) -> None:
    """Add the products of groups, times the scales of the rows."""
    first, last = place
    for group in range(scale.shape[0]):
        factors, own = scale[group][first:last], sums[group * ROWS :]
        for row in range(last - first):
            totals[row] += np.int64(own[row]) * np.int64(factors[row])


@register_jitable(**PART_POLICY)
def clear(totals: npt.NDArray[np.int64], tokens: Int) -> None:
    """Set the totals of so many tokens to zero."""
    for t in range(tokens):
        totals[t][:] = 0


@register_jitable(**PART_POLICY)
def write_rows(totals: npt.NDArray[np.int64], shift: Int, acc: Sums, place: Range) -> None:
    """Write totals (tokens, 64) to the accumulators of their rows."""
    for t in range(acc.shape[0]):
        write_rounded(totals[t], shift, acc[t][place[0] : place[1]])
