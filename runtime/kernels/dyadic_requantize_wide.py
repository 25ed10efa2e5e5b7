"""DyadicRequantizeWide: sums to integers of up to 32 bits of a scale that is known."""

import numpy as np
import numpy.typing as npt

from edgellm.runtime.kernels._jit import kernel
from edgellm.runtime.kernels._scalar import clamp, round_shift, share


@kernel("DyadicRequantizeWide", split="cells")
def dyadic_requantize_wide(
    thread: int,
    threads: int,
    acc: npt.NDArray[np.int32],  # (T, N)
    multiplier: npt.NDArray[np.int32],  # (N,)
    offset: npt.NDArray[np.int64],  # (N,)
    y: npt.NDArray[np.int32],  # (T, N)
    shift: int,
    bits: int,
) -> None:
    """Split by columns."""
    begin, end = share(multiplier.shape[0], thread, threads)
    channel, added = multiplier[begin:end], offset[begin:end]
    limit = (1 << (bits - 1)) - 1
    for t in range(acc.shape[0]):
        row, out = acc[t][begin:end], y[t][begin:end]
        for n in range(row.shape[0]):
            wide = np.int64(row[n]) * np.int64(channel[n]) + added[n]
            out[n] = clamp(round_shift(wide, shift), -limit, limit)
