"""Sums of activations that planes of bits choose, by look-up: four columns an index (T-MAC)."""

import numpy as np
import numpy.typing as npt

from edgellm.runtime.kernels._scalar import INT32_MAX, Int, clamp, round_shift

ROWS = 64
"""Rows of a block of the layout bit-planes/v1."""
BLOCKS = 4
"""That one token takes by turns, a group of each. (A server of 2024, one core, memory read alone:
12 GB/s from one place, 18 from four by turns. 16 blocks are no faster here, 64 slower.)"""
BLOCK_TOTALS = BLOCKS * ROWS
SPAN = 256
"""Columns whose tables are made at once: 64 tables of 16 int16 are 2 KiB."""
TABLES = SPAN // 4 * 16
SUMS = 8 * ROWS
"""For the most planes that there are, 8."""


def fill_tables(x: npt.NDArray[np.int8], tables: npt.NDArray[np.int16]) -> None:
    """Write for every four columns the 16 sums that four bits can choose."""
    columns = x.shape[0]
    for first in range(0, (columns + 7) // 8 * 8, 4):
        table = tables[first * 4 : first * 4 + 16]
        table[0] = 0
        for bit in range(4):
            value = np.int16(x[first + bit]) if first + bit < columns else np.int16(0)
            for key in range(1 << bit):
                table[(1 << bit) + key] = table[key] + value


def add_chosen(
    planes: npt.NDArray[np.uint8], tables: npt.NDArray[np.int16], sums: npt.NDArray[np.int32]
) -> None:
    """Add to ``sums[p * 64 + r]`` what the bits of plane p and row r choose.

    Args:
        planes: (octets, P, 64) of one block of rows.
        tables: as ``fill_tables`` writes them for these columns.
        sums: (P * 64,).
    """
    for octet in range(planes.shape[0]):
        low = tables[octet * 32 : octet * 32 + 16]
        high = tables[octet * 32 + 16 : octet * 32 + 32]
        for plane in range(planes.shape[1]):
            keys = planes[octet, plane]
            out = sums[plane * ROWS : plane * ROWS + ROWS]
            for row in range(ROWS):
                out[row] += np.int32(low[keys[row] & 15] + high[keys[row] >> 4])


def choose_group(
    x: npt.NDArray[np.int8],
    planes: npt.NDArray[np.uint8],
    tables: npt.NDArray[np.int16],
    sums: npt.NDArray[np.int32],
) -> np.int32:
    """Write what the bits of a group's columns choose to ``sums``, return the sum of its x."""
    sums[: planes.shape[1] * ROWS] = 0
    for first in range(0, x.shape[0], SPAN):
        part = x[first : first + SPAN]
        fill_tables(part, tables)
        add_chosen(planes[first // 8 : (first + part.shape[0] + 7) // 8], tables, sums)
    return sum_of(x)


def sum_of(x: npt.NDArray[np.int8]) -> np.int32:
    """Return the sum of a group's activations."""
    total = np.int32(0)
    for column in range(x.shape[0]):
        total = np.int32(total + x[column])
    return total


def sum_of_magnitudes(x: npt.NDArray[np.int8]) -> np.int32:
    """Return the sum of the magnitudes of activations."""
    total = np.int32(0)
    for column in range(x.shape[0]):
        total = np.int32(total + abs(np.int32(x[column])))
    return total


def join_planes(sums: npt.NDArray[np.int32], planes: Int, codes: npt.NDArray[np.int32]) -> None:
    """Write the products with the codes of the rows, of what each plane chose, (P * 64,)."""
    for row in range(ROWS):
        codes[row] = 0
    for plane in range(planes - 1, -1, -1):
        chosen = sums[plane * ROWS :]
        for row in range(ROWS):
            codes[row] = codes[row] + codes[row] + chosen[row]


def add_group(
    codes: npt.NDArray[np.int32],
    group: tuple[npt.NDArray[np.int16], npt.NDArray[np.uint8], np.int32],
    totals: npt.NDArray[np.int64],
) -> None:
    """Add ``scale * (codes . x - zero * sum of x)`` of each row of a group to its total.

    Args:
        codes: the products of the codes of the rows.
        group: scale and zero of the rows, and the sum of the group's activations.
        totals: of the rows.
    """
    scale, zero, whole = group
    for row in range(scale.shape[0]):
        # |code - zero| * 127 * K < 2^31: it may wrap around in between
        centered = np.int32(codes[row] - np.int32(zero[row]) * whole)
        totals[row] += np.int64(centered) * np.int64(scale[row])


def write_rounded(totals: npt.NDArray[np.int64], shift: Int, acc: npt.NDArray[np.int32]) -> None:
    """Write totals as accumulators, rounded once and saturated."""
    for row in range(acc.shape[0]):
        acc[row] = clamp(round_shift(totals[row], shift), -INT32_MAX, INT32_MAX)


def first_row(block: Int, begin: Int) -> Int:
    """Return the first row of a block that is not before ``begin``."""
    return max(block * ROWS, begin)


def last_row(block: Int, end: Int) -> Int:
    """Return the end of a block's rows that are before ``end``."""
    return min(block * ROWS + ROWS, end)
