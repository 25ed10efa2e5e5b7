"""Products of many tokens with levels of 16 bits, where bytes are multiplied no faster."""

# mypy: disable-error-code="untyped-decorator,call-arg"
# An intrinsic is declared with the typing context as its first argument, and called without.

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from numba.extending import register_jitable

from edgellm.runtime.kernels._bit_planes import ROWS
from edgellm.runtime.kernels._jit import PART_POLICY
from edgellm.runtime.kernels._scalar import Int, stack_int8, stack_int16, stack_int32
from edgellm.runtime.kernels._shift_alphas import fill_alphas
from edgellm.runtime.kernels.simd._unit import VectorUnit
from edgellm.runtime.kernels.vector import _wide_tiles as tiles
from edgellm.runtime.kernels.vector._code_products import PASS
from edgellm.runtime.kernels.vector._codes import unpack
from edgellm.runtime.kernels.vector._levels import ALPHA_WORDS, LEVELS, fill_levels
from edgellm.runtime.kernels.vector._tiles import as_matrix
from edgellm.runtime.kernels.vector._views import row_of
from edgellm.runtime.kernels.vector._word_panels import (
    COLUMNS,
    PAIR,
    PANEL_BYTES,
    TOGETHER,
    pair_tile,
    row_filler,
)

SPAN = 512
"""Columns whose products fit in 32 bits: 512 * 128 * LARGEST_LEVEL < 2^31."""
WIDTH = SPAN + 48
"""Of rows of words, with room for what makes up the last vector of a group."""
CODE_WIDTH = SPAN + 64
CODE_BYTES = ROWS * CODE_WIDTH
SLAB_ROWS = COLUMNS
"""Whose levels stay in the first cache for all tokens."""
SLAB_WORDS = SLAB_ROWS * WIDTH
TOKEN_WORDS = PASS * WIDTH

Codes = npt.NDArray[np.int8]
Words = npt.NDArray[np.int16]
Planes = npt.NDArray[np.uint8]
Alphas = npt.NDArray[np.uint8]
Sums = npt.NDArray[np.int32]
Totals = npt.NDArray[np.int64]
Range = tuple[Int, Int]
Place = tuple[Int, Int, Int, Int]


def wide_block(unit: VectorUnit) -> Callable[..., None]:
    """Return ``add_block`` as ``_level_products.byte_block`` does; it takes no starts."""
    unpack_codes, widen, add_slab = unpack(unit), tiles.widening(unit), slab_products(unit)

    @register_jitable(**PART_POLICY)
    def add_block(
        x: Codes, planes: Planes, alphas: Alphas, place: Place, _: Sums, totals: Totals
    ) -> None:
        first, last, size, terms = place
        shape = (planes.shape[1], terms)
        unpacked: Codes = as_matrix(stack_int8(CODE_BYTES), CODE_WIDTH)
        words: Words = as_matrix(stack_int16(TOKEN_WORDS), WIDTH)
        codes = unpacked[first % ROWS : first % ROWS + last - first]
        for column in range(0, x.shape[1], SPAN):
            end = min(column + SPAN, x.shape[1])
            unpack_codes(planes[column // 8 :], (end - column + 7) // 8, unpacked)
            for t in range(x.shape[0]):
                widen(x, t, column, end - column, words[t])
            for row in range(0, last - first, SLAB_ROWS):
                own = codes[row : row + SLAB_ROWS]
                rows = (first + row, min(first + row + SLAB_ROWS, last))
                numbers = (x.shape[0], column, end, size)
                add_slab(words, own, alphas, (rows, shape), numbers, totals[:, row:])

    return add_block


def slab_products(unit: VectorUnit) -> Callable[..., None]:
    """Return ``add_slab(x, codes, alphas, place, (tokens, column, end, size), totals)``.

    place is (first, last) of the rows, and the planes and terms of the alphas. It adds the products
    of so many tokens with the rows, and to others behind these something.
    """
    look_up, step = tiles.wide_translate(unit), tiles.STEP
    multiply = panel_products(unit) if unit.multiplies_words else tile_products(unit)

    @register_jitable(**PART_POLICY)
    def add_slab(
        x: Words,
        codes: Codes,
        packed: Alphas,
        place: tuple[Range, Range],
        numbers: tuple[Int, Int, Int, Int],
        totals: Totals,
    ) -> None:
        ((first, last), shape), (tokens, column, end, size) = place, numbers
        levels: Words = as_matrix(stack_int16(SLAB_WORDS), WIDTH)
        alphas, low, high = stack_int32(ALPHA_WORDS), stack_int8(LEVELS), stack_int8(LEVELS)
        start = column
        while start < end:
            stop = min((start // size + 1) * size, end)
            fill_alphas(packed, start // size, shape, (first, last), alphas)
            for row in range(last - first):
                fill_levels(alphas[row:], shape[0], 0, low, high)
                found: Words = row_of(levels, row)[start - column :]
                look_up(row_of(codes, row)[start - column :], stop - start, low, high, found)
            start = stop
        columns = (end - column + step - 1) // step * step
        multiply(x, levels, totals, (tokens, last - first, columns))

    return add_slab


def tile_products(unit: VectorUnit) -> Callable[..., None]:
    """Return ``multiply(x, levels, totals, (tokens, rows, columns))``: add so many products.

    And something to what is behind these.
    """
    tile, tile_rows, tile_tokens = tiles.wide_tile(unit), tiles.ROWS, tiles.TOKENS

    @register_jitable(**PART_POLICY)
    def multiply(x: Words, levels: Words, totals: Totals, sizes: tuple[Int, Int, Int]) -> None:
        tokens, rows, columns = sizes
        for t in range(0, tokens, tile_tokens):
            for row in range(0, rows, tile_rows):
                tile(x, levels, totals, (t, row, row), columns)

    return multiply


def panel_products(unit: VectorUnit) -> Callable[..., None]:
    """Return the same where pairs of words are multiplied: all rows of a slab are outputs."""
    fill, tile = row_filler(unit), pair_tile(unit, TOGETHER, adds=True)

    @register_jitable(**PART_POLICY)
    def multiply(x: Words, levels: Words, totals: Totals, sizes: tuple[Int, Int, Int]) -> None:
        tokens, _, columns = sizes
        panel = stack_int8(PANEL_BYTES)
        fill(levels[:, :columns], panel, 0)
        for t in range(0, tokens, TOGETHER):
            tile(x, panel, totals, (t, 0, columns // PAIR, 0))

    return multiply
