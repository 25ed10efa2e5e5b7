"""L2Normalize: each row divided by its length, in Q30."""

import numpy as np
import numpy.typing as npt

from edgellm.runtime.kernels._jit import kernel
from edgellm.runtime.kernels._scalar import bit_length, isqrt, round_shift

ROW_BITS = 22
FRAME = 30


@kernel("L2Normalize", split="rows")
def l2_normalize(
    thread: int,
    threads: int,
    x: npt.NDArray[np.int32],  # (T, N)
    y: npt.NDArray[np.int32],  # (T, N)
) -> None:
    """Split by rows."""
    for t in range(thread, x.shape[0], threads):
        row = x[t]
        peak = np.int64(0)
        for n in range(row.shape[0]):
            peak = max(peak, abs(np.int64(row[n])))
        drop = max(bit_length(peak) - ROW_BITS, 0)
        squares = np.int64(0)
        for n in range(row.shape[0]):
            short = round_shift(np.int64(row[n]), drop)
            squares += short * short
        radicand = max(squares, 1)
        even = (62 - bit_length(radicand)) & -2
        inverse = (1 << 61) // isqrt(radicand << even)
        shift = 61 - FRAME - (even >> 1)
        for n in range(row.shape[0]):
            y[t, n] = round_shift(round_shift(np.int64(row[n]), drop) * inverse, shift)
