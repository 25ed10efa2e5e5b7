"""Products with rows of weights whose gate is open: one token visits no others."""

# mypy: disable-error-code="untyped-decorator"

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from numba.extending import register_jitable

from edgellm.runtime.kernels._jit import PART_POLICY
from edgellm.runtime.kernels._scalar import Int, share, stack_int8, stack_int32
from edgellm.runtime.kernels.gated_bit_linear import close
from edgellm.runtime.kernels.simd._unit import BLOCK, VectorUnit
from edgellm.runtime.kernels.vector._blocked_products import (
    LEAST_TOKENS,
    PANEL_ROWS,
    blocked_multiply,
    rows_of,
)
from edgellm.runtime.kernels.vector._chosen_rows import AHEAD, chosen_rows_tile
from edgellm.runtime.kernels.vector._last_block import lay_out_rest
from edgellm.runtime.kernels.vector._panels import Panels
from edgellm.runtime.kernels.vector._products import SPAN, total
from edgellm.runtime.kernels.vector._products import Product as OpenProduct
from edgellm.runtime.kernels.vector._sums import SumsWriter
from edgellm.runtime.kernels.vector._tiles import ROWS, Operation, as_matrix

Codes = npt.NDArray[np.int8]
Packed = npt.NDArray[np.uint8]
Sums = npt.NDArray[np.int32]
Product = Callable[[Codes, Packed, Sums, Sums, Int, Int], None]

LISTED_ROWS = 4096
"""Rows whose open ones are listed at once: 16 KiB on the stack."""


def list_open(gate: Sums, start: np.int32, rows: Sums, acc: Sums) -> Int:
    """List the open rows, and begin their accumulators; return how many.

    What follows in the list, to be prefetched, is a row that is in the cache by then.
    """
    count = 0
    for n in range(gate.shape[0]):
        is_open = gate[n] > 0
        rows[count] = n
        acc[n] = start if is_open else np.int32(0)
        count += is_open
    last = rows[max(count - 1, 0)]
    for i in range(count, count + AHEAD + ROWS):
        rows[i] = last
    return count


def gated_kernel(
    operation: Operation, product: OpenProduct, panels: Callable[[VectorUnit], Panels]
) -> Callable[..., None]:
    """Return the kernel of an operator that multiplies with open rows.

    Args:
        operation: on a row, of one token.
        product: of several tokens, with all rows.
        panels: of many, where products use matrix tiles.
    """
    multiply, several = open_product(operation), closed_product(product)
    if operation.unit.matrix_tiles:
        several = matrix_product(panels(operation.unit), several)

    def gated_linear(
        thread: int,
        threads: int,
        x: npt.NDArray[np.int8],  # (T, K)
        packed: npt.NDArray[np.uint8],  # (N, B)
        gate: npt.NDArray[np.int32],  # (T, N)
        acc: npt.NDArray[np.int32],  # (T, N)
    ) -> None:
        begin, end = share(packed.shape[0], thread, threads)
        if x.shape[0] == 1:
            multiply(x, packed[begin:end], gate[0, begin:end], acc[:, begin:end])
        else:
            several(x, packed, gate, acc, begin, end)

    return gated_linear


def closed_product(of_all: OpenProduct) -> Product:
    """Return ``product(x, packed, gate, acc, begin, end)`` for some tokens, of a slice of rows.

    All of them are multiplied; then those that are closed become 0.
    """

    @register_jitable(**PART_POLICY)
    def product(x: Codes, packed: Packed, gate: Sums, acc: Sums, begin: Int, end: Int) -> None:
        of_all(x, packed[begin:end], acc[:, begin:end])
        for t in range(x.shape[0]):
            close(gate[t, begin:end], acc[t, begin:end])

    return product


def matrix_product(panels: Panels, few: Product) -> Product:
    """Return the same, which uses matrix tiles where there are rows and tokens enough."""
    multiply = blocked_multiply(rows_of(panels), SumsWriter(gated=True))

    @register_jitable(**PART_POLICY)
    def product(x: Codes, packed: Packed, gate: Sums, acc: Sums, begin: Int, end: Int) -> None:
        many = x.shape[0] >= LEAST_TOKENS
        paneled = begin + (end - begin) // PANEL_ROWS * PANEL_ROWS if many else begin
        if paneled > begin:
            multiply(x, packed, acc, gate, (begin, paneled))
        few(x, packed, gate, acc, paneled, end)

    return product


def open_product(operation: Operation) -> Callable[[Codes, Packed, Sums, Sums], None]:
    """Return ``multiply(x, packed, gate, acc)`` for one token: the open rows, 0 for the others."""
    four, one = chosen_rows_tile(operation), operation.tile_of_one(1)
    bias, list_length = np.int32(operation.unit.ternary_bias), LISTED_ROWS + AHEAD + ROWS
    block, block_bytes = operation.columns, operation.block_bytes
    span_bytes, columns_per_byte = SPAN // block * block_bytes, BLOCK // block_bytes

    @register_jitable(**PART_POLICY)
    def add(x: Codes, rest: Codes, packed: Packed, rows: Sums, count: Int, acc: Sums) -> None:
        whole = count // ROWS * ROWS
        for i in range((x.shape[1] + SPAN - 1) // SPAN):
            part = x[:, i * SPAN : min((i + 1) * SPAN, x.shape[1])]
            weight = packed[:, i * span_bytes :]
            for at in range(0, whole, ROWS):
                four(part[0], rest[0], weight, acc[0], rows, at)
            for at in range(whole, count):
                one(part, rest, weight, acc, 0, np.int64(rows[at]))

    @register_jitable(**PART_POLICY)
    def multiply(x: Codes, packed: Packed, gate: Sums, acc: Sums) -> None:
        start = np.int32(-total(x[0]) * bias)
        rows = stack_int32(list_length)
        rest: Codes = as_matrix(stack_int8(block), block)
        if x.shape[1] % block != 0:
            size = packed.shape[1] - x.shape[1] // block * block_bytes
            lay_out_rest(x, rest, block // BLOCK, size * columns_per_byte)
        for first in range(0, packed.shape[0], LISTED_ROWS):
            end = min(first + LISTED_ROWS, packed.shape[0])
            out = acc[:, first:end]
            count = list_open(gate[first:end], start, rows, out[0])
            add(x, rest, packed[first:end], rows, count, out)

    return multiply
