"""Products of many tokens with codes of up to four bits, where bytes are multiplied in pairs.

Codes are unpacked and lessened by their zeros once for the tokens of a pass, a span of columns of
64 rows at a time, and multiplied by the tiles of ``_scaled_tiles``.
"""

# mypy: disable-error-code="untyped-decorator"

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from numba.extending import register_jitable

from edgellm.runtime.kernels._bit_planes import ROWS, first_row, last_row, write_rounded
from edgellm.runtime.kernels._jit import PART_POLICY
from edgellm.runtime.kernels._scalar import Int, stack_int8, stack_int32, stack_int64
from edgellm.runtime.kernels.simd._unit import VectorUnit
from edgellm.runtime.kernels.vector import _scaled_tiles as tiles
from edgellm.runtime.kernels.vector._code_products import subtract
from edgellm.runtime.kernels.vector._codes import unpack
from edgellm.runtime.kernels.vector._lanes import copy_bytes
from edgellm.runtime.kernels.vector._tiles import as_matrix
from edgellm.runtime.kernels.vector._views import row_of

LEAST_TOKENS = 8
"""From so many on it pays to unpack."""
PASS = 128
"""Tokens that there is scratch memory for, also for one that makes them even."""
SPAN = 1024
"""Columns that are unpacked at once."""
SLAB_ROWS = 16
"""Whose codes stay in the first cache for all tokens."""
MOST_PARTS = SPAN // min(tiles.PARTS)
CODE_BYTES = ROWS * SPAN
TOKEN_BYTES = PASS * SPAN
TOTAL_WORDS = PASS * ROWS
FACTOR_WORDS = SLAB_ROWS * MOST_PARTS
MOST_BITS = 4

Codes = npt.NDArray[np.int8]
Planes = npt.NDArray[np.uint8]
Scales = npt.NDArray[np.int16]
Zeros = npt.NDArray[np.uint8]
Sums = npt.NDArray[np.int32]
Totals = npt.NDArray[np.int64]
Grid = tuple[Scales, Zeros]
Range = tuple[Int, Int]
Place = tuple[Int, Int, Int, Int]


def small_code_products(unit: VectorUnit, others: Callable[..., bool]) -> Callable[..., bool]:
    """Return ``products`` as ``_code_products.group_products`` does; ``others`` are such.

    These are called where codes or groups do not suit.
    """
    add_block = block_products(unit)

    @register_jitable(**PART_POLICY)
    def products(
        x: Codes, planes: Planes, grid: Grid, acc: Sums, rows: Range, numbers: Range
    ) -> bool:
        (begin, end), (size, shift) = rows, numbers
        part = part_columns(x.shape[1], size)
        if x.shape[0] < LEAST_TOKENS:
            return False
        if part == 0 or planes.shape[2] > MOST_BITS or not are_small(grid[1], begin, end):
            return others(x, planes, grid, acc, rows, numbers)
        totals: Totals = as_matrix(stack_int64(TOTAL_WORDS), ROWS)
        for t in range(0, x.shape[0], PASS):
            some = x[t : t + PASS]
            count = some.shape[0]
            for block in range(begin // ROWS, (end + ROWS - 1) // ROWS):
                first, last = first_row(block, begin), last_row(block, end)
                totals[:count] = 0
                add_block(some, planes[block], grid, (first, last, size, part), totals)
                for i in range(count):
                    write_rounded(totals[i, first % ROWS :], shift, acc[t + i][first:last])
        return True

    return products


@register_jitable(**PART_POLICY)
def part_columns(columns: Int, size: Int) -> Int:
    """Return one of PARTS that groups of such a size are multiples of, the last too; or 0."""
    for part in tiles.PARTS:
        if size % part == 0 and columns % part == 0:
            return part
    return 0


@register_jitable(**PART_POLICY)
def are_small(zero: Zeros, begin: Int, end: Int) -> bool:
    """Tell whether codes of MOST_BITS of some rows, less their zeros, are -15 to 15."""
    largest = np.uint8(0)
    for group in range(zero.shape[0]):
        for row in zero[group][begin:end]:
            largest = max(largest, row)
    return largest <= tiles.MOST_CODE


def block_products(unit: VectorUnit) -> Callable[..., None]:
    """Return ``add_block(x, planes, grid, (first, last, size, part), totals)``.

    It adds the products of the tokens with the rows of a block from ``first`` to ``last``; to the
    other rows something. Totals are (tokens, 64).
    """
    unpack_codes, add_slab = unpack(unit), slab_products(unit)

    @register_jitable(**PART_POLICY)
    def add_block(x: Codes, planes: Planes, grid: Grid, place: Place, totals: Totals) -> None:
        (scale, zero), (first, last, size, part) = grid, place
        codes: Codes = as_matrix(stack_int8(CODE_BYTES), SPAN)
        factors = as_matrix(stack_int8(TOKEN_BYTES), SPAN)
        span = SPAN // part * part
        for column in range(0, x.shape[1], span):
            columns = min(span, x.shape[1] - column)
            unpack_codes(planes[column // 8 :], columns // 8, codes)
            for i in range(column, column + columns, part):
                own, less = codes[:, i - column : i - column + part], zero[i // size]
                for n in range(first, last):
                    subtract(row_of(own, n % ROWS), less[n])
            for t in range(x.shape[0]):
                copy_bytes(x[t][column : column + columns], factors[t][:columns])
            for slab in range(0, ROWS, SLAB_ROWS):
                numbers = (x.shape[0], slab, column, columns // part)
                add_slab(factors, codes, scale, place, numbers, totals)

    return add_block


def slab_products(unit: VectorUnit) -> Callable[..., None]:
    """Return ``add_slab(x, codes, scale, place, (tokens, slab, column, parts), totals)``.

    It adds the products of so many tokens and parts, which begin at a column, with SLAB_ROWS rows
    of a block; place is as for ``block_products``.
    """
    tile_128, tile_64, tile_32 = (tiles.scaled_tile(unit, part) for part in tiles.PARTS)
    tile_rows, tile_tokens = tiles.ROWS, tiles.TOKENS

    @register_jitable(**PART_POLICY)
    def add_slab(
        x: Codes, codes: Codes, scale: Scales, place: Place, numbers: Place, totals: Totals
    ) -> None:
        (first, last, size, part), (tokens, slab, column, parts) = place, numbers
        twice: Sums = as_matrix(stack_int32(FACTOR_WORDS), MOST_PARTS)
        begin = first // ROWS * ROWS + slab
        for i in range(parts):
            group = (column + i * part) // size
            for row in range(SLAB_ROWS):
                factor = np.int32(0)
                if first <= begin + row < last:
                    factor = np.int32(scale[group, begin + row])
                twice[row, i] = (factor << np.int32(16)) | (factor & np.int32(0xFFFF))
        for t in range(0, tokens, tile_tokens):
            for row in range(0, SLAB_ROWS, tile_rows):
                at = (t, slab + row, row)
                if part == 128:
                    tile_128(x, codes, twice, totals, at, parts)
                elif part == 64:
                    tile_64(x, codes, twice, totals, at, parts)
                else:
                    tile_32(x, codes, twice, totals, at, parts)

    return add_slab
