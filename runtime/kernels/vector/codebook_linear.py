"""CodebookLinear on a vector unit: few tokens by look-ups, many on weights looked up before."""

# mypy: disable-error-code="untyped-decorator"

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from numba.extending import register_jitable

from edgellm.runtime.kernels._jit import PART_POLICY
from edgellm.runtime.kernels._row_codes import BLOCK, MAX_COLUMNS, add_outliers
from edgellm.runtime.kernels._scalar import share, stack_int8
from edgellm.runtime.kernels.simd._unit import VectorUnit
from edgellm.runtime.kernels.vector._products import Codes, Product, int8_product, total
from edgellm.runtime.kernels.vector._row_codes import RowCodes
from edgellm.runtime.kernels.vector._tiles import as_matrix, start_row

TOKENS = 4
"""Of a tile."""
SCRATCH = TOKENS * MAX_COLUMNS
"""Bytes for the tokens of a tile, filled up with zeros, or for weights that are looked up at once
for many tokens: 128 KiB stay in the level-2 cache."""
MAX_TILED_TOKENS = 8
"""More tokens than that are multiplied with weights that were looked up before."""
SLAB_ROWS = 32
"""A multiple of the rows of any panel."""

Packed = npt.NDArray[np.uint8]
Levels = npt.NDArray[np.int8]
Sums = npt.NDArray[np.int32]
Multiply = Callable[[Codes, tuple[Packed, Levels], Sums, int, Codes], None]


def pad(x: Codes, out: Codes) -> None:
    """Copy a row, and fill up with zeros."""
    for k in range(x.shape[0]):
        out[k] = x[k]
    for k in range(x.shape[0], out.shape[0]):
        out[k] = np.int8(0)


def few(unit: VectorUnit, bits: int) -> Multiply:
    """Return ``multiply(x, (codes, levels), acc, group_size, scratch)`` for few tokens."""
    rows = RowCodes(unit, bits)
    one, several = rows.tile(1), rows.tile(TOKENS)
    bias = np.int32(unit.byte_bias)

    @register_jitable(**PART_POLICY)
    def multiply(
        x: Codes, weight: tuple[Packed, Levels], acc: Sums, group_size: int, scratch: Codes
    ) -> None:
        codes, levels = weight
        width = (x.shape[1] + BLOCK - 1) // BLOCK * BLOCK
        whole: Codes = as_matrix(scratch, width)
        first = 0
        while first < x.shape[0]:
            tokens = TOKENS if first + TOKENS <= x.shape[0] else 1
            for t in range(tokens):
                start_row(acc, first + t, -total(x[first + t]) * bias)
                pad(x[first + t], whole[t])
            out = acc[first:]
            for n in range(codes.shape[0]):
                if tokens == TOKENS:
                    several(whole, codes, levels, out, 0, n, group_size // BLOCK)
                else:
                    one(whole, codes, levels, out, 0, n, group_size // BLOCK)
            first += tokens

    return multiply


def many(unit: VectorUnit, bits: int, product: Product) -> Multiply:
    """Return the same for many tokens."""
    unpack = RowCodes(unit, bits).unpack()

    @register_jitable(**PART_POLICY)
    def multiply(
        x: Codes, weight: tuple[Packed, Levels], acc: Sums, group_size: int, scratch: Codes
    ) -> None:
        codes, levels = weight
        width = (x.shape[1] + BLOCK - 1) // BLOCK * BLOCK
        slab: Codes = as_matrix(scratch, width)
        step = slab.shape[0]
        if step > SLAB_ROWS:
            step = step // SLAB_ROWS * SLAB_ROWS
        for first in range(0, codes.shape[0], step):
            last = min(first + step, codes.shape[0])
            for n in range(first, last):
                unpack(codes, levels, slab, n - first, n, group_size // BLOCK)
            product(x, slab[: last - first, : x.shape[1]], acc[:, first:last])

    return multiply


def either(unit: VectorUnit, bits: int, product: Product) -> Multiply:
    """Return the same for any number of tokens."""
    multiply_few, multiply_many = few(unit, bits), many(unit, bits, product)

    @register_jitable(**PART_POLICY)
    def multiply(
        x: Codes, weight: tuple[Packed, Levels], acc: Sums, group_size: int, scratch: Codes
    ) -> None:
        if x.shape[0] > MAX_TILED_TOKENS:
            multiply_many(x, weight, acc, group_size, scratch)
        else:
            multiply_few(x, weight, acc, group_size, scratch)

    return multiply


def build(unit: VectorUnit) -> Callable[..., None]:
    """Return the kernel."""
    product = int8_product(unit)
    of_two, of_three, of_four = (either(unit, bits, product) for bits in (2, 3, 4))

    def codebook_linear(
        thread: int,
        threads: int,
        x: npt.NDArray[np.int8],  # (T, K)
        codes: npt.NDArray[np.uint8],  # (N, B)
        levels: npt.NDArray[np.int8],  # (N, G, L)
        offsets: npt.NDArray[np.int32],  # (R,)
        columns: npt.NDArray[np.int16],  # (Z,)
        values: npt.NDArray[np.int16],  # (Z,)
        acc: npt.NDArray[np.int32],  # (T, N)
        group_size: int,
    ) -> None:
        begin, end = share(codes.shape[0], thread, threads)
        weight, out = (codes[begin:end], levels[begin:end]), acc[:, begin:end]
        scratch = stack_int8(SCRATCH)
        if levels.shape[2] == 4:
            of_two(x, weight, out, group_size, scratch)
        elif levels.shape[2] == 8:
            of_three(x, weight, out, group_size, scratch)
        else:
            of_four(x, weight, out, group_size, scratch)
        if offsets.shape[0] > 1:
            add_outliers(x, (offsets, columns, values), acc, (begin, end))

    return codebook_linear
