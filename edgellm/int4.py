"""The layout of weights of 4 bits, int4/v1."""

import numpy as np
import numpy.typing as npt

INT4 = "int4/v1"
"""Four bits a weight of -8 to 7. Columns are a multiple of 64, a block of 64 is 32 bytes: bits 0..3
of byte b are column b, bits 4..7 column 32 + b, each a weight + 8."""

INT4_LIMIT = 7
"""The largest code of what is quantised by its absmax: without -8, negation stays closed."""
BLOCK = 64
"""Columns in one block of INT4."""


def pack_int4(weight: npt.NDArray[np.int8]) -> npt.NDArray[np.uint8]:
    """Pack weights of -8 to 7 in the layout INT4.

    Args:
        weight: (N, K) int8, K a multiple of BLOCK.

    Returns:
        (N, K / 2) uint8.
    """
    rows, columns = weight.shape
    halves = (weight + np.int8(8)).view(np.uint8).reshape(rows, columns // BLOCK, 2, BLOCK // 2)
    return (halves[:, :, 0] | halves[:, :, 1] << np.uint8(4)).reshape(rows, columns // 2)


def unpack_int4(packed: npt.NDArray[np.uint8]) -> npt.NDArray[np.int8]:
    """Unpack what ``pack_int4`` made: (N, K) int8."""
    rows, half = packed.shape
    blocks = packed.reshape(rows, 2 * half // BLOCK, 1, BLOCK // 2)
    codes = np.concatenate([blocks & np.uint8(15), blocks >> np.uint8(4)], axis=2)
    return codes.reshape(rows, 2 * half).view(np.int8) - np.int8(8)
