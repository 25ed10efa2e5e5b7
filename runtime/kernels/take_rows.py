"""TakeRows: the rows of codes and of their scales that a linear head is to score."""

import numpy as np
import numpy.typing as npt

from edgellm.runtime.kernels._jit import kernel


@kernel("TakeRows")
def take_rows(
    thread: int,
    threads: int,
    x: npt.NDArray[np.int8],  # (T, N)
    scale: npt.NDArray[np.int32],  # (T, 2)
    rows: npt.NDArray[np.int64],  # (L,)
    codes: npt.NDArray[np.int8],  # (L, N)
    out_scale: npt.NDArray[np.int32],  # (L, 2)
) -> None:
    """Split by the rows that are taken."""
    for number in range(thread, rows.shape[0], threads):
        row = rows[number]
        source, target = x[row], codes[number]
        for n in range(source.shape[0]):
            target[n] = source[n]
        out_scale[number, 0] = scale[row, 0]
        out_scale[number, 1] = scale[row, 1]
