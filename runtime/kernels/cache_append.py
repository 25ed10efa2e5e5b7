"""CacheAppend: quantise new keys or values, one int8 row a head, and append them to the cache."""

import numpy as np
import numpy.typing as npt

from edgellm.runtime.kernels._jit import kernel
from edgellm.runtime.kernels._scalar import absmax_reciprocal, absmax_shift, round_shift, share


@kernel("CacheAppend", split="heads")
def cache_append(
    thread: int,
    threads: int,
    x: npt.NDArray[np.int32],  # (T, M), M = H * D
    past: npt.NDArray[np.int8],  # (S, H, D)
    past_absmax: npt.NDArray[np.int32],  # (S, H)
    present: npt.NDArray[np.int8],  # (S+T, H, D)
    present_absmax: npt.NDArray[np.int32],  # (S+T, H)
) -> None:
    """Split by heads of rows. The past is in ``present`` already: the runtime appends in place."""
    length, heads, dim = past.shape
    begin, end = share(x.shape[0] * heads, thread, threads)
    for item in range(begin, end):
        t, h = item // heads, item % heads
        head = x[t][h * dim : (h + 1) * dim]
        out = present[length + t, h]
        peak = np.int64(0)
        for d in range(dim):
            peak = max(peak, abs(np.int64(head[d])))
        reciprocal, shift = absmax_reciprocal(peak), absmax_shift(peak)
        for d in range(dim):
            out[d] = round_shift(np.int64(head[d]) * reciprocal, shift)
        present_absmax[length + t, h] = peak
