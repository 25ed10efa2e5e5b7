"""Rows of weights from the layout ``int4/v1``."""

import numpy as np
import numpy.typing as npt

BLOCK = 64
HALF = 32


def unpack_row(
    packed: npt.NDArray[np.uint8],  # (K / 2,)
    out: npt.NDArray[np.int8],  # (K,) or longer
) -> None:
    """Write one row as int8."""
    for block in range(packed.shape[0] // HALF):
        codes = out[block * BLOCK : (block + 1) * BLOCK]
        pairs = packed[block * HALF : (block + 1) * HALF]
        for b in range(HALF):
            byte = np.int16(pairs[b])
            codes[b] = (byte & 15) - 8
            codes[HALF + b] = (byte >> 4) - 8
