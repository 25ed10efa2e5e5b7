"""The only definition of each bit layout: pack, unpack, ranges, and a versioned layout id.

A layout id names bytes on disk for ever: a change of the bytes is a new id, never a new meaning.
"""

import numpy as np
import numpy.typing as npt

from edgellm.errors import CheckpointError

TERNARY_2BIT = "ternary-2bit/v1"
"""Two bits a weight. Rows are padded with zeros to a multiple of 64 columns. A block of 64 columns
is 16 bytes; bits 2p..2p+1 of byte b hold the code (weight + 1) of column 16*p + b. So 16
neighbouring bytes shifted by 2p are 16 neighbouring weights, on a vector unit of any width."""

TERNARY_BLOCK = 64
"""Columns in one block of TERNARY_2BIT."""

_SHIFTS = np.array([0, 2, 4, 6], dtype=np.uint8).reshape(1, 1, 4, 1)


def packed_columns(columns: int) -> int:
    """Return the bytes that a row of ``columns`` ternary weights takes in TERNARY_2BIT."""
    return -(-columns // TERNARY_BLOCK) * (TERNARY_BLOCK // 4)


def pack_ternary(weight: npt.NDArray[np.int8]) -> npt.NDArray[np.uint8]:
    """Pack ternary weights.

    Args:
        weight: (N, K) int8, each -1, 0 or 1.

    Returns:
        (N, packed_columns(K)) uint8 in the layout TERNARY_2BIT.
    """
    rows, columns = weight.shape
    padded = np.zeros((rows, packed_columns(columns) * 4), dtype=np.int8)
    padded[:, :columns] = weight
    codes = (padded + 1).astype(np.uint8).reshape(rows, -1, 4, 16)
    return np.bitwise_or.reduce(codes << _SHIFTS, axis=2).reshape(rows, -1)


def unpack_ternary(packed: npt.NDArray[np.uint8], columns: int) -> npt.NDArray[np.int8]:
    """Unpack what ``pack_ternary`` made.

    Args:
        packed: (N, packed_columns(columns)) uint8.
        columns: K.

    Returns:
        (N, K) int8, each -1, 0 or 1.

    Raises:
        CheckpointError: a code is 3, which stands for no weight.
    """
    blocks = packed.reshape(packed.shape[0], -1, 1, 16)
    codes = (blocks >> _SHIFTS) & np.uint8(3)
    if (codes == 3).any():
        row = int(np.argwhere(codes == 3)[0, 0])
        raise CheckpointError(f"packed ternary row {row} holds the code 3; allowed are 0, 1, 2")
    return (codes.astype(np.int8) - np.int8(1)).reshape(packed.shape[0], -1)[:, :columns]
