"""Weights that codes in the layout ``row-codes/v1`` choose from tables, and their outliers."""

import numpy as np
import numpy.typing as npt

from edgellm.runtime.kernels._scalar import Int, Pair, saturate

BLOCK = 64
QUARTER = 16
HALF = 32
MAX_COLUMNS = 32_768


def unpack_row(
    packed: npt.NDArray[np.uint8],  # (B,)
    levels: npt.NDArray[np.int8],  # (G, L)
    group_size: Int,
    out: npt.NDArray[np.int8],  # whole blocks, or longer
) -> None:
    """Write the levels that one row of codes chooses."""
    size = 32 if levels.shape[1] == 16 else (24 if levels.shape[1] == 8 else 16)
    for block in range(packed.shape[0] // size):
        table = levels[block * BLOCK // group_size]
        bytes_ = packed[block * size : (block + 1) * size]
        part = out[block * BLOCK : (block + 1) * BLOCK]
        if size == HALF:
            unpack_nibbles(bytes_, table, part)
        else:
            unpack_fields(bytes_, table, part)


def unpack_nibbles(
    packed: npt.NDArray[np.uint8], table: npt.NDArray[np.int8], out: npt.NDArray[np.int8]
) -> None:
    """Write a block of codes of 4 bits."""
    for b in range(HALF):
        out[b] = table[packed[b] & 15]
        out[HALF + b] = table[packed[b] >> 4]


def unpack_fields(
    packed: npt.NDArray[np.uint8], table: npt.NDArray[np.int8], out: npt.NDArray[np.int8]
) -> None:
    """Write a block of codes of 2 or 3 bits."""
    third = packed.shape[0] > QUARTER
    for column in range(BLOCK):
        code = packed[column % QUARTER] >> (column // QUARTER * 2) & 3
        if third:
            code |= (packed[QUARTER + column % 8] >> (column // 8) & 1) << 2
        out[column] = table[code]


def add_outliers(
    x: npt.NDArray[np.int8],  # (T, K)
    outliers: tuple[
        npt.NDArray[np.int32], npt.NDArray[np.int16], npt.NDArray[np.int16]
    ],  # offsets (R,), columns (Z,), values (Z,)
    acc: npt.NDArray[np.int32],  # (T, N)
    rows: Pair,
) -> None:
    """Add the outliers of the rows from the first to before the last, and saturate."""
    offsets, columns, values = outliers
    begin, end = rows
    for t in range(x.shape[0]):
        codes, sums = x[t], acc[t]
        for n in range(begin, end):
            total = np.int64(sums[n])
            for i in range(offsets[n], offsets[n + 1]):
                total += np.int64(np.int32(codes[columns[i]]) * np.int32(values[i]))
            sums[n] = saturate(total)
