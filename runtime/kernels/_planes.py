"""Rows of int8 weights from the layout ``int8-planes/v1``."""

import numpy as np
import numpy.typing as npt

BLOCK = 64
PLANES = 4


def recombine(
    high: npt.NDArray[np.uint8],  # (K / 2,)
    low: npt.NDArray[np.uint8],  # (4, V, K / 8)
    row: int,
    out: npt.NDArray[np.int8],  # (K,) or longer
) -> None:
    """Write the int8 weights of one row, whose high nibbles are ``high``."""
    for block in range(high.shape[0] // 32):
        codes = out[block * BLOCK : (block + 1) * BLOCK]
        nibbles = high[block * 32 : block * 32 + 32]
        for b in range(32):
            byte = np.int16(nibbles[b])
            codes[b] = (byte & 15) * 16 - 128
            codes[32 + b] = (byte & 240) - 128
        for plane in range(PLANES):
            place = PLANES - 1 - plane
            bytes_ = low[plane, row, block * 8 : block * 8 + 8]
            for p in range(8):
                for b in range(8):
                    codes[8 * p + b] += np.int8((np.int16(bytes_[b]) >> p & 1) << place)
