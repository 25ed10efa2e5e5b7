"""Products of many tokens with the codes of planes of bits: unpacked to int8, then multiplied.

A span of columns of 64 rows is unpacked once for the tokens of a pass, and multiplied as Int8Linear
is, a part at a time: a group, or of a long one so many columns as fit in a span.
"""

# mypy: disable-error-code="untyped-decorator"

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from numba.extending import register_jitable

from edgellm.runtime.kernels._bit_planes import ROWS, first_row, last_row, write_rounded
from edgellm.runtime.kernels._jit import PART_POLICY
from edgellm.runtime.kernels._scalar import Int, stack_int8, stack_int32, stack_int64
from edgellm.runtime.kernels.simd._unit import BLOCK, VectorUnit
from edgellm.runtime.kernels.vector._codes import unpack
from edgellm.runtime.kernels.vector._products import int8_multiply, total
from edgellm.runtime.kernels.vector._scaled_sums import add_scaled
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
"""Of a span."""
SUM_COLUMNS = MOST_PARTS * ROWS
SUM_WORDS = PASS * SUM_COLUMNS
TOTAL_WORDS = PASS * ROWS
START_WORDS = 1 << 17
"""One for each part and token: for all tokens of a pass and 65,536 columns in groups of 64."""
MOST_ZERO = 128
MOST_BITS = 7
"""With these, codes less their zero are int8."""

Codes = npt.NDArray[np.int8]
Planes = npt.NDArray[np.uint8]
Zeros = npt.NDArray[np.uint8]
Sums = npt.NDArray[np.int32]
Totals = npt.NDArray[np.int64]
Grid = tuple[npt.NDArray[np.int16], Zeros]
Range = tuple[Int, Int]
Place = tuple[Int, Int, Int]


def fits_bytes(bits: Int, zero: Zeros, begin: Int, end: Int) -> bool:
    """Tell whether the codes of rows less their zeros are int8."""
    largest = 0
    for group in range(zero.shape[0]):
        for row in zero[group][begin:end]:
            largest = max(largest, row)
    return bits <= MOST_BITS and largest <= MOST_ZERO


def span_product(unit: VectorUnit) -> Callable[..., Int]:
    """Return ``multiply_span``, see there."""
    multiply = int8_multiply(unit)

    @register_jitable(**PART_POLICY)
    def multiply_span(
        x: Codes, codes: Codes, zero: Zeros, sums: tuple[Sums, Sums], place: Place
    ) -> Int:
        """Write the product of each part, codes less zero, to columns of its own.

        Returns:
            How many parts there are.
        """
        (out, starts), (first, column, size) = sums, place
        rows, stop, part = codes.shape[0], column + codes.shape[1], 0
        begin = column
        while begin < stop:
            end = end_of_part(begin, size, stop)
            own = codes[:, begin - column : end - column]
            for row in range(rows):
                subtract(row_of(own, row), zero[begin // size, first + row])
            at = part * ROWS
            multiply(x[:, begin:end], own, out[:, at : at + rows], starts[part * x.shape[0] :])
            begin, part = end, part + 1
        return part

    return multiply_span


def group_products(unit: VectorUnit) -> Callable[..., bool]:
    """Return ``products(x, planes, grid, acc, (begin, end), (group_size, shift))``.

    For many tokens and the rows from begin to end: what GroupLinear means; grid are scales, zeros.
    It returns whether it did it: not for few tokens, nor where codes less their zeros are no int8.
    """
    multiply_span, unpack_codes, bias = span_product(unit), unpack(unit), np.int32(unit.byte_bias)

    @register_jitable(**PART_POLICY)
    def add_block(
        x: Codes, planes: Planes, grid: Grid, place: Place, starts: Sums, out: Totals
    ) -> None:
        """Add the products of the rows of a block."""
        (scale, zero), (first, last, size) = grid, place
        unpacked: Codes = as_matrix(stack_int8(CODE_BYTES), WIDTH)
        sums: Sums = as_matrix(stack_int32(SUM_WORDS), SUM_COLUMNS)
        own = unpacked[first % ROWS : first % ROWS + last - first]
        column, done = 0, 0
        while column < x.shape[1]:
            stop = end_of_span(column, size, x.shape[1])
            unpack_codes(planes[column // 8 :], (stop - column + 7) // 8, unpacked)
            targets = (sums, starts[done * x.shape[0] :])
            codes = own[:, : stop - column]
            parts = multiply_span(x, codes, zero, targets, (first, column, size))
            factors = scale[column // size : column // size + parts]
            for t in range(x.shape[0]):
                add_scaled(sums[t], factors, first, last, out[t])
            column, done = stop, done + parts

    @register_jitable(**PART_POLICY)
    def products(
        x: Codes, planes: Planes, grid: Grid, acc: Sums, rows: Range, numbers: Range
    ) -> bool:
        (begin, end), (size, shift) = rows, numbers
        if x.shape[0] < LEAST_TOKENS or not fits_bytes(planes.shape[2], grid[1], begin, end):
            return False
        totals: Totals = as_matrix(stack_int64(TOTAL_WORDS), ROWS)
        starts = stack_int32(START_WORDS)
        tokens = tokens_at_once(x.shape[1], size)
        for t in range(0, x.shape[0], tokens):
            some = x[t : t + tokens]
            fill_starts(some, size, bias, starts)
            for block in range(begin // ROWS, (end + ROWS - 1) // ROWS):
                first, last = first_row(block, begin), last_row(block, end)
                clear(totals, some.shape[0])
                add_block(some, planes[block], grid, (first, last, size), starts, totals)
                write_rows(totals, shift, acc[t : t + tokens], (first, last))
        return True

    return products


@register_jitable(**PART_POLICY)
def end_of_part(column: Int, size: Int, columns: Int) -> Int:
    """Return where the part of a group ends that begins at a column."""
    return min(column + SPAN, (column // size + 1) * size, columns)


@register_jitable(**PART_POLICY)
def end_of_span(column: Int, size: Int, columns: Int) -> Int:
    """Return where the columns end that are unpacked together: whole groups, or a part of one."""
    if size > SPAN:
        return end_of_part(column, size, columns)
    return min(column + min(SPAN // size, MOST_PARTS) * size, columns)


@register_jitable(**PART_POLICY)
def tokens_at_once(columns: Int, size: Int) -> Int:
    """Return how many tokens a pass has."""
    parts = (columns // size + 1) * (size // SPAN + 1)
    return max(min(PASS, START_WORDS // parts), 1)


@register_jitable(**PART_POLICY)
def fill_starts(x: Codes, size: Int, bias: np.int32, starts: Sums) -> None:
    """Write what the products of each part and token begin with (see ``int8_multiply``)."""
    column: Int = 0
    place: Int = 0
    while column < x.shape[1]:
        stop = end_of_part(column, size, x.shape[1])
        whole = column + (stop - column) // BLOCK * BLOCK
        for t in range(x.shape[0]):
            starts[place + t] = -total(x[t][column:whole]) * bias
        column, place = stop, place + x.shape[0]


@register_jitable(**PART_POLICY)
def subtract(codes: Codes, zero: np.uint8) -> None:
    """Subtract the zero of a row from its codes."""
    for k in range(codes.shape[0]):
        codes[k] = np.int8(codes[k] - np.int8(zero))


@register_jitable(**PART_POLICY)
def clear(totals: Totals, tokens: Int) -> None:
    """Set the totals of so many tokens to zero."""
    for t in range(tokens):
        totals[t][:] = 0


@register_jitable(**PART_POLICY)
def write_rows(totals: Totals, shift: Int, acc: Sums, place: Range) -> None:
    """Write totals (tokens, 64) to the accumulators of their rows."""
    for t in range(acc.shape[0]):
        write_rounded(totals[t], shift, acc[t][place[0] : place[1]])
