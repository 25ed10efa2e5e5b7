"""TrellisLinear on a vector unit: few tokens row by row, many on rows unpacked before."""

# mypy: disable-error-code="untyped-decorator"

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from numba.extending import register_jitable

from edgellm.runtime.kernels._dot import dot
from edgellm.runtime.kernels._jit import PART_POLICY
from edgellm.runtime.kernels._row_codes import MAX_COLUMNS, add_outliers
from edgellm.runtime.kernels._scalar import share, stack_int8, stack_int32
from edgellm.runtime.kernels._trellis_rows import fill_levels, unpack_row
from edgellm.runtime.kernels.simd._unit import BLOCK, VectorUnit
from edgellm.runtime.kernels.vector._products import Codes, int8_product, total
from edgellm.runtime.kernels.vector._tiles import as_matrix, start_row
from edgellm.runtime.kernels.vector._trellis_rows import TrellisRows

TOKENS = 4
"""Of a tile."""
SCRATCH = TOKENS * MAX_COLUMNS
"""Bytes for the tokens of a tile, or for rows that are unpacked at once for many tokens."""
MAX_TILED_TOKENS = 8
"""More tokens than that are multiplied with rows that were unpacked before."""
SLAB_ROWS = 32
"""A multiple of the rows of any panel."""

Packed = npt.NDArray[np.uint8]
Sums = npt.NDArray[np.int32]
Multiply = Callable[[Codes, Packed, Sums, tuple[int, int], Codes], None]
"""multiply(x, codes, acc, (first row, row behind the last), scratch)"""


def arrange(x: Codes, out: Codes) -> None:
    """Copy a row so that its last 64 are a block, of which those in blocks before are zero."""
    whole = x.shape[0] // BLOCK * BLOCK
    for k in range(whole):
        out[k] = x[k]
    if whole < x.shape[0]:
        begin = x.shape[0] - BLOCK
        for k in range(BLOCK):
            out[whole + k] = x[begin + k] if begin + k >= whole else np.int8(0)


def few(unit: VectorUnit) -> Multiply:
    """Return ``multiply`` for few tokens, of 64 columns or more."""
    rows = TrellisRows(unit)
    one, several = rows.tile(1), rows.tile(TOKENS)
    bias = np.int32(unit.byte_bias)

    @register_jitable(**PART_POLICY)
    def multiply(x: Codes, codes: Packed, acc: Sums, part: tuple[int, int], scratch: Codes) -> None:
        begin, end = part
        columns = x.shape[1]
        arranged: Codes = as_matrix(scratch, (columns + BLOCK - 1) // BLOCK * BLOCK)
        first = 0
        while first < x.shape[0]:
            tokens = TOKENS if first + TOKENS <= x.shape[0] else 1
            for t in range(tokens):
                start_row(acc[:, begin:end], first + t, -total(x[first + t]) * bias)
                arrange(x[first + t], arranged[t])
            out = acc[first:]
            for n in range(begin, end):
                if tokens == TOKENS:
                    several(arranged, codes, out, 0, n, columns)
                else:
                    one(arranged, codes, out, 0, n, columns)
            first += tokens

    return multiply


def many(unit: VectorUnit) -> Multiply:
    """Return the same for many tokens."""
    unpack, product = TrellisRows(unit).unpack(), int8_product(unit)

    @register_jitable(**PART_POLICY)
    def multiply(x: Codes, codes: Packed, acc: Sums, part: tuple[int, int], scratch: Codes) -> None:
        begin, end = part
        slab: Codes = as_matrix(scratch, x.shape[1])
        step = slab.shape[0]
        if step > SLAB_ROWS:
            step = step // SLAB_ROWS * SLAB_ROWS
        for first in range(begin, end, step):
            last = min(first + step, end)
            for n in range(first, last):
                unpack(codes, slab, n - first, n, x.shape[1])
            product(x, slab[: last - first], acc[:, first:last])

    return multiply


def build(unit: VectorUnit) -> Callable[..., None]:
    """Return the kernel."""
    multiply_few, multiply_many = few(unit), many(unit)

    def trellis_linear(
        thread: int,
        threads: int,
        x: npt.NDArray[np.int8],  # (T, K)
        codes: npt.NDArray[np.uint8],  # (N, B)
        offsets: npt.NDArray[np.int32],  # (R,)
        columns: npt.NDArray[np.int16],  # (Z,)
        values: npt.NDArray[np.int16],  # (Z,)
        acc: npt.NDArray[np.int32],  # (T, N)
    ) -> None:
        begin, end = share(codes.shape[0], thread, threads)
        scratch = stack_int8(SCRATCH)
        if x.shape[1] < BLOCK:
            states, levels = stack_int32(BLOCK), stack_int8(256)
            fill_levels(levels)
            row = scratch[: x.shape[1]]
            for n in range(begin, end):
                unpack_row(codes, n, levels, states[: x.shape[1]], row)
                for t in range(x.shape[0]):
                    acc[t, n] = dot(x[t], row)
        elif x.shape[0] > MAX_TILED_TOKENS:
            multiply_many(x, codes, acc, (begin, end), scratch)
        else:
            multiply_few(x, codes, acc, (begin, end), scratch)
        if offsets.shape[0] > 1:
            add_outliers(x, (offsets, columns, values), acc, (begin, end))

    return trellis_linear
