"""MeanPool: the mean of the rows of each sequence."""

import numpy as np
import numpy.typing as npt

from edgellm.runtime.kernels._jit import kernel

OFFSET = 2**31


@kernel("MeanPool")
def mean_pool(
    thread: int,
    threads: int,
    x: npt.NDArray[np.int32],  # (T, N)
    ends: npt.NDArray[np.int64],  # (B,)
    y: npt.NDArray[np.int32],  # (B, N)
) -> None:
    """Split by sequences."""
    for number in range(thread, ends.shape[0], threads):
        begin, end = (ends[number - 1] if number > 0 else 0), ends[number]
        count = end - begin
        for n in range(x.shape[1]):
            total = count * OFFSET + count // 2
            for t in range(begin, end):
                total += np.int64(x[t, n])
            y[number, n] = total // count - OFFSET
