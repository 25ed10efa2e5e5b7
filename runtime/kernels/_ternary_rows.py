"""Parts of kernels on ternary weights in the layout ternary-2bit/v1, in plain loops."""

import numpy as np
import numpy.typing as npt

from edgellm.runtime.kernels._dot import dot_wide
from edgellm.runtime.kernels._scalar import Int

TILE = 8192
"""Columns whose activations are laid out at once: int16 in 16 KiB of a level-1 cache."""
PLANE = TILE // 4


def split_planes(x: npt.NDArray[np.int8], planes: npt.NDArray[np.int16]) -> np.int32:
    """Lay out activations as the packed bytes hold their weights; return their sum.

    Byte j of a row of packed weights goes with ``planes[p * PLANE + j]`` for its bits 2p, p < 4.
    Columns past the end of x are zero.
    """
    total = np.int32(0)
    columns = x.shape[0]
    for k in range((columns + 63) // 64 * 64):
        value = np.int16(x[k]) if k < columns else np.int16(0)
        planes[(k >> 4 & 3) * PLANE + (k >> 6) * 16 + (k & 15)] = value
        total = np.int32(total + value)
    return total


def dot_planes(packed: npt.NDArray[np.uint8], planes: npt.NDArray[np.int16]) -> np.int32:
    """Return the sum of ``(weight + 1) * activation``.

    Four products are added in int16 (|sum| <= 4 * 3 * 128): a vector holds twice as many of those.
    """
    a = planes[0:PLANE]
    b = planes[PLANE : 2 * PLANE]
    c = planes[2 * PLANE : 3 * PLANE]
    d = planes[3 * PLANE : 4 * PLANE]
    total = np.int32(0)
    for j in range(packed.shape[0]):
        byte = np.int16(packed[j])
        low = (byte & 3) * a[j] + (byte >> 2 & 3) * b[j]
        high = (byte >> 4 & 3) * c[j] + (byte >> 6) * d[j]
        total = np.int32(total + np.int16(low + high))
    return total


def unpack_row(packed: npt.NDArray[np.uint8], weights: npt.NDArray[np.int16]) -> None:
    """Write the ternary weights of packed bytes in the order of their columns."""
    for block in range(packed.shape[0] // 16):
        bytes_ = packed[block * 16 : block * 16 + 16]
        out = weights[block * 64 : block * 64 + 64]
        for b in range(16):
            byte = np.int16(bytes_[b])
            out[b] = (byte & 3) - 1
            out[16 + b] = (byte >> 2 & 3) - 1
            out[32 + b] = (byte >> 4 & 3) - 1
            out[48 + b] = (byte >> 6) - 1


def multiply_many(
    x: npt.NDArray[np.int8],
    packed: npt.NDArray[np.uint8],
    acc: npt.NDArray[np.int32],
    first: Int,
    scratch: npt.NDArray[np.int16],
) -> None:
    """Multiply all tokens with each row in turn, which is unpacked once; acc[:, first:]."""
    for n in range(packed.shape[0]):
        for column in range(0, x.shape[1], TILE):
            unpack_row(packed[n][column // 4 : column // 4 + PLANE], scratch)
            for t in range(x.shape[0]):
                part = dot_wide(x[t][column : column + TILE], scratch)
                acc[t, first + n] = part if column == 0 else acc[t, first + n] + part
