"""Matrix products from tiles and panels: acc = x . weight, for a slice of the weights."""

# mypy: disable-error-code="untyped-decorator"

from collections.abc import Callable
from functools import cache

import numpy as np
import numpy.typing as npt
from numba.extending import register_jitable

from edgellm.runtime.kernels._dot import dot
from edgellm.runtime.kernels._jit import PART_POLICY
from edgellm.runtime.kernels._scalar import Int, stack_int8, stack_int32
from edgellm.runtime.kernels.simd._unit import BLOCK, TRITS, VectorUnit
from edgellm.runtime.kernels.vector._blocked_products import rows_of, with_matrix_tiles
from edgellm.runtime.kernels.vector._last_block import lay_out_rest
from edgellm.runtime.kernels.vector._matrix_products import matrix_multiply
from edgellm.runtime.kernels.vector._operations import int8, ternary, trits, trits_for_many
from edgellm.runtime.kernels.vector._panels import (
    TOKENS,
    Panels,
    int8_panels,
    signed_panels,
    signed_ternary_panels,
    signed_trit_panels,
    ternary_panels,
    trit_panels,
)
from edgellm.runtime.kernels.vector._tiles import (
    ROWS,
    Operation,
    as_matrix,
    start_row,
)
from edgellm.runtime.kernels.vector._turned_rows import multiply_by_look_ups
from edgellm.runtime.kernels.vector._word_panels import COLUMNS
from edgellm.runtime.kernels.vector._word_products import LEAST_TOKENS as LEAST_WORDS
from edgellm.runtime.kernels.vector._word_products import word_add

Codes = npt.NDArray[np.int8]
Weights = npt.NDArray[np.generic]
Accumulators = npt.NDArray[np.int32]
Starts = npt.NDArray[np.int32]
Product = Callable[[Codes, Weights, Accumulators], None]
Add = Callable[[Codes, Codes, Weights, Accumulators], None]
Multiply = Callable[[Codes, Codes, Weights, Accumulators, Starts], None]

SPAN = 3200 * TRITS * BLOCK
"""Columns of a tile: a lane's sum of scaled ternary codes stays below 2^31. (A group of 64 columns
gives four products to a lane, of codes up to 3 * 4^3 and activations down to -128; of five groups
two have the largest codes.)"""
LEAST_TILES = 4
"""From so many tiles of tokens on, panels are faster: laying out costs as much as three or four.
(AVX-512, 2560 x 6912: 8 tokens 2.1 instead of 3.8 times one token, 16 tokens 3.5 instead of 5.7)"""
LEAST_MATRIX = 16
"""From so many tokens on, matrix tiles are faster."""
MAX_TOKENS = 256
"""Tokens that there is scratch memory for."""


def total(codes: Codes) -> np.int32:
    """Return the sum of int8 codes."""
    result = np.int32(0)
    for k in range(codes.shape[0]):
        result = np.int32(result + codes[k])
    return result


def begin(acc: Accumulators, starts: Starts) -> None:
    """Set the accumulators of each token."""
    for t in range(acc.shape[0]):
        start_row(acc, t, starts[t])


def row_by_row(single: Operation) -> Callable[..., None]:
    """Return ``add(x, rest, weight, acc, n, t)``, for the rows from n and the tokens from t on.

    Each token takes row after row.
    """
    count: int = single.rows
    tile, one = single.tile_of_one(count), single.tile_of_one(1)

    @register_jitable(**PART_POLICY)
    def add(x: Codes, rest: Codes, weight: Weights, acc: Accumulators, n: Int, t: Int) -> None:
        whole = n + (weight.shape[0] - n) // count * count
        for i in range(n, whole, count):
            for token in range(t, x.shape[0]):
                tile(x, rest, weight, acc, token, i)
        for i in range(whole, weight.shape[0]):
            for token in range(t, x.shape[0]):
                one(x, rest, weight, acc, token, i)

    return add


def tiled(single: Operation, several: Operation, tokens: int) -> Add:
    """Return ``add(x, rest, weight, acc)``: add the product.

    Args:
        single: the operation for one token.
        several: the same for ``tokens`` at once.
        tokens: how many.
    """
    many, add_rows = several.tile(ROWS, tokens), row_by_row(single)
    half = tokens // 2 if tokens > 3 else tokens
    few = several.tile(ROWS, half)
    span_bytes = SPAN // single.columns * single.block_bytes

    @register_jitable(**PART_POLICY)
    def add_span(x: Codes, rest: Codes, weight: Weights, acc: Accumulators) -> None:
        grouped = x.shape[0] // tokens * tokens
        halved = grouped + (x.shape[0] - grouped) // half * half
        paneled = weight.shape[0] // ROWS * ROWS if halved > 0 else 0
        for n in range(0, paneled, ROWS):  # the rows stay in the cache for all tokens
            for t in range(0, grouped, tokens):
                many(x, rest, weight, acc, t, n)
            for t in range(grouped, halved, half):
                few(x, rest, weight, acc, t, n)
            add_rows(x, rest, weight[: n + ROWS], acc, n, halved)
        add_rows(x, rest, weight, acc, paneled, 0)

    @register_jitable(**PART_POLICY)
    def add(x: Codes, rest: Codes, weight: Weights, acc: Accumulators) -> None:
        for i in range((x.shape[1] + SPAN - 1) // SPAN):
            part = x[:, i * SPAN : min((i + 1) * SPAN, x.shape[1])]
            add_span(part, rest, weight[:, i * span_bytes :], acc)

    return add


def of_whole_blocks(operation: Operation, tokens: int) -> Product:
    """Return ``add(x, weight, acc)`` for an x of whole blocks: add the product, by tiles."""
    add_tiled, block = tiled(operation, operation, tokens), operation.columns

    @register_jitable(**PART_POLICY)
    def add(x: Codes, weight: Weights, acc: Accumulators) -> None:
        add_tiled(x, as_matrix(stack_int8(block), block), weight, acc)

    return add


def multiply_tiled(add: Add) -> Multiply:
    """Return ``multiply(x, rest, weight, acc, starts)``, by tiles alone.

    It makes acc = starts + product.
    """

    @register_jitable(**PART_POLICY)
    def multiply(x: Codes, rest: Codes, weight: Weights, acc: Accumulators, starts: Starts) -> None:
        begin(acc, starts)
        add(x, rest, weight, acc)

    return multiply


def multiply_panels(layout: Panels, add: Add) -> Multiply:
    """Return the same, which uses panels where there are rows and tokens enough."""
    least = LEAST_TILES * layout.unit.tokens
    fill, tile, rows, span = layout.fill(), layout.tile(), layout.rows, layout.span
    block, block_bytes = layout.columns, layout.block_bytes
    panel_bytes = rows * span

    @register_jitable(**PART_POLICY)
    def multiply(x: Codes, rest: Codes, weight: Weights, acc: Accumulators, starts: Starts) -> None:
        grouped = x.shape[0] // TOKENS * TOKENS if x.shape[0] >= least else 0
        paneled = weight.shape[0] // rows * rows if grouped > 0 else 0
        whole = x.shape[1] // block * block
        panel = stack_int8(panel_bytes)
        for n in range(0, paneled, rows):
            begin(acc[:, n : n + rows], starts)  # here, where they are used next
            for k in range(0, whole, span):
                count = min(span, whole - k)
                fill(weight, panel, n, k // block * block_bytes, count // block)
                for t in range(0, grouped, TOKENS):
                    tile(x, panel, acc, t, n, k, count)
            if whole < x.shape[1]:
                fill(weight, panel, n, weight.shape[1] - block_bytes, 1)
                for t in range(0, grouped, TOKENS):
                    tile(rest, panel, acc, t, n, 0, block)
            add(x[grouped:], rest[grouped:], weight[n : n + rows], acc[grouped:, n : n + rows])
        begin(acc[:, paneled:], starts)
        add(x, rest, weight[paneled:], acc[:, paneled:])

    return multiply


def fastest(layout: Callable[[VectorUnit], Panels], unit: VectorUnit, add: Add) -> Multiply:
    """Return the ``multiply`` that suits a unit."""
    return multiply_panels(layout(unit), add) if unit.adds_fours else multiply_tiled(add)


@cache
def ternary_product(unit: VectorUnit) -> Product:
    """Return ``product(x, packed, acc)`` for weights in the layout ternary-2bit/v1."""
    product = vector_ternary_product(unit)
    if unit.matrix_tiles:
        return with_matrix_tiles(rows_of(signed_ternary_panels(unit)), product)
    return product


@cache
def vector_ternary_product(unit: VectorUnit) -> Product:
    """Return the same without matrix tiles."""
    operation = ternary(unit)
    return _packed_product(unit, (operation, operation), ternary_panels, multiply_by_look_ups)


@cache
def trit_product(unit: VectorUnit) -> Product:
    """Return ``product(x, packed, acc)`` for weights in the layout ternary-5trit/v1."""
    product = vector_trit_product(unit)
    if unit.matrix_tiles:
        return with_matrix_tiles(rows_of(signed_trit_panels(unit)), product)
    return product


@cache
def vector_trit_product(unit: VectorUnit) -> Product:
    """Return the same without matrix tiles."""
    return _packed_product(unit, (trits(unit), trits_for_many(unit)), trit_panels)


def _packed_product(
    unit: VectorUnit,
    operations: tuple[Operation, Operation],
    panels: Callable[[VectorUnit], Panels],
    multiply_other: Callable[[VectorUnit, Multiply], Multiply] | None = None,
) -> Product:
    """Return the product for weights that are packed by blocks, the last one of zeros at its end.

    Args:
        unit: whose instructions.
        operations: for one token, and for several.
        panels: for many.
        multiply_other: for many of units that have none, from what is for few.
    """
    add = tiled(*operations, unit.tokens)
    multiply = fastest(panels, unit, add)
    if multiply_other and not unit.adds_fours:
        multiply = multiply_other(unit, multiply)
    bias = np.int32(unit.ternary_bias)
    block, block_bytes = operations[0].columns, operations[0].block_bytes
    groups, rest_bytes = block // BLOCK, MAX_TOKENS * block
    columns_per_byte = BLOCK // block_bytes  # in a group

    @register_jitable(**PART_POLICY)
    def product(x: Codes, packed: npt.NDArray[np.uint8], acc: Accumulators) -> None:
        starts = stack_int32(MAX_TOKENS)
        rest: Codes = as_matrix(stack_int8(rest_bytes), block)
        whole_bytes = x.shape[1] // block * block_bytes
        size = (packed.shape[1] - whole_bytes) * columns_per_byte
        for first in range(0, x.shape[0], MAX_TOKENS):
            end = min(first + MAX_TOKENS, x.shape[0])
            for t in range(first, end):
                starts[t - first] = -total(x[t]) * bias
            if x.shape[1] % block != 0:
                lay_out_rest(x[first:end], rest, groups, size)
            multiply(x[first:end], rest, packed, acc[first:end], starts)

    return product


@cache
def int8_product(unit: VectorUnit) -> Product:
    """Return ``product(x, weight, acc)`` for int8 weights."""
    multiply = int8_multiply(unit)
    if unit.matrix_tiles:
        return _matrix_tiles_of_int8(unit, _int8_product(unit, multiply))
    return _int8_product(unit, multiply)


@cache
def int8_multiply(unit: VectorUnit) -> Callable[[Codes, Codes, Accumulators, Starts], None]:
    """Return ``multiply(x, weight, acc, starts)`` for int8 weights and up to MAX_TOKENS tokens.

    starts are the sums of x, but of the last columns that are no whole block, times -byte_bias.
    """
    operation = int8(unit)
    add = tiled(operation, operation, unit.tokens)
    if unit.matrix_tiles:
        multiply_blocks = _some_matrix_tiles(unit, multiply_tiled(add))
    elif unit.multiplies_words:
        multiply_blocks = _some_words(unit, add)
    else:
        multiply_blocks = fastest(int8_panels, unit, add)

    @register_jitable(**PART_POLICY)
    def multiply(x: Codes, weight: Codes, acc: Accumulators, starts: Starts) -> None:
        whole = x.shape[1] // BLOCK * BLOCK
        none: Codes = as_matrix(stack_int8(BLOCK), BLOCK)  # of x, only whole blocks are multiplied
        multiply_blocks(x[:, :whole], none, weight, acc, starts)
        if whole < x.shape[1]:
            add_rest(x, weight, acc, whole)

    return multiply


def _some_matrix_tiles(unit: VectorUnit, multiply_others: Multiply) -> Multiply:
    """Return the multiplication of whole blocks with matrix tiles where they pay."""
    multiply_matrix, rows = matrix_multiply(unit), signed_panels(unit).rows

    @register_jitable(**PART_POLICY)
    def multiply(x: Codes, rest: Codes, weight: Weights, acc: Accumulators, starts: Starts) -> None:
        many = x.shape[0] >= LEAST_MATRIX and x.shape[1] > 0
        paneled = weight.shape[0] // rows * rows if many else 0
        if paneled > 0:
            multiply_matrix(x, weight[:paneled], acc)
        if paneled < weight.shape[0]:
            multiply_others(x, rest, weight[paneled:], acc[:, paneled:], starts)

    return multiply


def _some_words(unit: VectorUnit, add_others: Add) -> Multiply:
    """Return the multiplication of whole blocks as words where that pays."""
    add_words = word_add(unit, MAX_TOKENS)

    @register_jitable(**PART_POLICY)
    def multiply(x: Codes, rest: Codes, weight: Weights, acc: Accumulators, starts: Starts) -> None:
        begin(acc, starts)
        paneled = weight.shape[0] // COLUMNS * COLUMNS if x.shape[0] >= LEAST_WORDS else 0
        if paneled > 0:
            add_words(x, weight[:paneled], acc)
        if paneled < weight.shape[0]:
            add_others(x, rest, weight[paneled:], acc[:, paneled:])

    return multiply


def _matrix_tiles_of_int8(unit: VectorUnit, product: Product) -> Product:
    """Return the product with matrix tiles; ``product`` does what is left."""
    multiply, rows = matrix_multiply(unit), signed_panels(unit).rows

    @register_jitable(**PART_POLICY)
    def matrix_product(x: Codes, weight: Codes, acc: Accumulators) -> None:
        whole = x.shape[1] // BLOCK * BLOCK
        many = x.shape[0] >= LEAST_MATRIX and whole > 0
        paneled = weight.shape[0] // rows * rows if many else 0
        if paneled > 0:
            multiply(x[:, :whole], weight[:paneled], acc)
        if whole < x.shape[1]:
            add_rest(x, weight[:paneled], acc, whole)
        if paneled < weight.shape[0]:
            product(x, weight[paneled:], acc[:, paneled:])

    return matrix_product


def add_rest(x: Codes, weight: Codes, acc: Accumulators, whole: int) -> None:
    """Add the products of the columns from ``whole`` on."""
    for n in range(weight.shape[0]):
        for t in range(x.shape[0]):
            acc[t, n] += dot(x[t, whole:], weight[n, whole:])


def _int8_product(
    unit: VectorUnit, multiply: Callable[[Codes, Codes, Accumulators, Starts], None]
) -> Product:
    """Return the product for int8 weights and any number of tokens."""
    bias = np.int32(unit.byte_bias)

    @register_jitable(**PART_POLICY)
    def product(x: Codes, weight: Codes, acc: Accumulators) -> None:
        whole = x.shape[1] // BLOCK * BLOCK
        starts = stack_int32(MAX_TOKENS)
        for first in range(0, x.shape[0], MAX_TOKENS):
            end = min(first + MAX_TOKENS, x.shape[0])
            for t in range(first, end):
                starts[t - first] = -total(x[t, :whole]) * bias
            multiply(x[first:end], weight, acc[first:end], starts)

    return product
