"""SelectRows: one row of each sequence."""

import numpy as np
import numpy.typing as npt

from edgellm.runtime.kernels._jit import kernel


@kernel("SelectRows")
def select_rows(
    thread: int,
    threads: int,
    x: npt.NDArray[np.int32],  # (T, N)
    ends: npt.NDArray[np.int64],  # (B,)
    y: npt.NDArray[np.int32],  # (B, N)
    row: int,
) -> None:
    """Split by sequences."""
    for number in range(thread, ends.shape[0], threads):
        begin = ends[number - 1] if number > 0 else 0
        for n in range(x.shape[1]):
            y[number, n] = x[begin + row, n]
