"""JoinColumns: the accumulators of a linear whose outputs two products compute, in their order."""

import numpy as np
import numpy.typing as npt

from edgellm.runtime.kernels._jit import kernel
from edgellm.runtime.kernels._scalar import share


@kernel("JoinColumns")
def join_columns(
    thread: int,
    threads: int,
    first: npt.NDArray[np.int32],  # (T, A)
    second: npt.NDArray[np.int32],  # (T, B)
    places: npt.NDArray[np.uint8],  # (P,)
    acc: npt.NDArray[np.int32],  # (T, A + B)
) -> None:
    """Split by columns; each thread counts which columns come before its own."""
    begin, end = share(acc.shape[1], thread, threads)
    before = 0
    for n in range(begin):
        before += places[n >> 3] >> (n & 7) & 1
    for t in range(acc.shape[0]):
        left, right, out = first[t], second[t], acc[t]
        seen = before
        for n in range(begin, end):
            if places[n >> 3] >> (n & 7) & 1:
                out[n] = right[min(seen, right.shape[0] - 1)]
                seen += 1
            else:
                out[n] = left[min(n - seen, left.shape[0] - 1)]
