"""Rows of weights in the layout ``trellis/v1``."""

import numpy as np
import numpy.typing as npt

from edgellm.runtime.kernels._scalar import Int

STATES = 4096
MULTIPLIER = 2335
LEVELS = (-63, -45, -34, -26, -20, -14, -8, -3, 3, 8, 14, 20, 26, 34, 45, 63)


def fill_levels(table: npt.NDArray[np.int8]) -> None:  # (256,)
    """Write the level of each pair of hashes, of 4 bits each."""
    for i in range(table.shape[0]):
        table[i] = np.int8(LEVELS[i >> 4] + LEVELS[i & 15])


def unpack_row(
    codes: npt.NDArray[np.uint8],  # (N, B)
    n: Int,
    table: npt.NDArray[np.int8],  # (256,), as ``fill_levels`` writes it
    states: npt.NDArray[np.int32],  # (K,), scratch memory
    out: npt.NDArray[np.int8],  # (K,)
) -> None:
    """Write the weights of a row."""
    rows, columns = codes.shape[0], out.shape[0]
    planes = rows * codes.shape[1] // columns
    first = n * 8 * planes // rows
    for k in range(columns):
        states[k] = 0
    for i in range(3):  # 12 bits from any bit of a byte on
        add_plane(codes, (first // 8 + i) % planes, 8 * i, states)
    shift = np.int32(first % 8)
    for k in range(columns):
        states[k] = (states[k] >> shift & STATES - 1) * MULTIPLIER >> 4 & 255
    for k in range(columns):
        out[k] = table[states[k]]


def add_plane(
    codes: npt.NDArray[np.uint8],  # (N, B)
    plane: Int,
    shift: Int,
    states: npt.NDArray[np.int32],  # (K,)
) -> None:
    """Add the bytes of a plane to the states of a row."""
    row_bytes, place = codes.shape[1], plane * states.shape[0]
    row, column, k = place // row_bytes, place % row_bytes, 0
    while k < states.shape[0]:
        count = min(states.shape[0] - k, row_bytes - column)
        add_bytes(codes[row, column : column + count], shift, states[k : k + count])
        row, column, k = row + 1, 0, k + count


def add_bytes(part: npt.NDArray[np.uint8], shift: Int, states: npt.NDArray[np.int32]) -> None:
    """Add bytes to as many states."""
    factor = np.int32(1 << shift)
    for i in range(part.shape[0]):
        states[i] += np.int32(part[i]) * factor
