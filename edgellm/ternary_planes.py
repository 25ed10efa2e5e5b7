"""The layout of ternary weights for look-ups by rows, ternary-planes/v1."""

import numpy as np
import numpy.typing as npt

TERNARY_PLANES = "ternary-planes/v1"
"""Two bits a weight, for look-ups by rows: weight + 1 is the sum of both bits. A block of 64 rows
and 8 columns is 128 bytes: bit c of byte 2*r + p of block (b, o) is bit p of row 64*b + r and
column 8*o + c. So the bits of a row lie side by side, and what they choose from one table is added
in pairs. Columns beyond the matrix are zero bits."""

ROWS = 64
"""Rows in one block of TERNARY_PLANES; a matrix has whole blocks."""
COLUMNS = 8
"""Columns in one block of TERNARY_PLANES."""
PLANES = 2


def ternary_planes_shape(rows: int, columns: int) -> tuple[int, int, int, int]:
    """Return the shape that a matrix of so many rows and columns has in TERNARY_PLANES."""
    return rows // ROWS, -(-columns // COLUMNS), ROWS, PLANES


def pack_ternary_planes(weight: npt.NDArray[np.int8]) -> npt.NDArray[np.uint8]:
    """Pack ternary weights.

    Args:
        weight: (N, K) int8, each -1, 0 or 1; N is a multiple of ROWS.

    Returns:
        ``ternary_planes_shape(N, K)`` uint8 in the layout TERNARY_PLANES.
    """
    blocks, octets, _, _ = ternary_planes_shape(*weight.shape)
    packed = np.empty((blocks, octets, ROWS, PLANES), np.uint8)
    for plane, bits in enumerate((weight >= 0, weight > 0)):
        bytes_ = np.packbits(bits, axis=1, bitorder="little")
        packed[..., plane] = bytes_.reshape(blocks, ROWS, octets).transpose(0, 2, 1)
    return packed


def unpack_ternary_planes(packed: npt.NDArray[np.uint8], columns: int) -> npt.NDArray[np.int8]:
    """Return the weights that ``pack_ternary_planes`` packed, (N, columns)."""
    blocks, octets, rows, planes = packed.shape
    by_row = packed.transpose(3, 0, 2, 1).reshape(planes, blocks * rows, octets)
    bits = np.unpackbits(by_row, axis=2, bitorder="little").view(np.int8)
    weight: npt.NDArray[np.int8] = bits.sum(axis=0, dtype=np.int8) - np.int8(1)
    return weight[:, :columns]
