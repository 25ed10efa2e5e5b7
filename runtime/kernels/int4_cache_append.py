"""Int4CacheAppend: quantise new keys or values in 4 bits, and append them to the cache."""

import numpy as np
import numpy.typing as npt

from edgellm.int4 import INT4_LIMIT
from edgellm.runtime.kernels._int4 import BLOCK, HALF
from edgellm.runtime.kernels._jit import kernel
from edgellm.runtime.kernels._scalar import absmax_reciprocal, absmax_shift, round_shift, share


@kernel("Int4CacheAppend", split="heads")
def int4_cache_append(
    thread: int,
    threads: int,
    x: npt.NDArray[np.int32],  # (T, M), M = H * D
    past: npt.NDArray[np.uint8],  # (S, H, D / 2)
    past_absmax: npt.NDArray[np.int32],  # (S, H)
    present: npt.NDArray[np.uint8],  # (S+T, H, D / 2)
    present_absmax: npt.NDArray[np.int32],  # (S+T, H)
) -> None:
    """Split by heads of rows. The past is in ``present`` already: the runtime appends in place."""
    length, heads, half = past.shape
    dim = 2 * half
    begin, end = share(x.shape[0] * heads, thread, threads)
    for item in range(begin, end):
        t, h = item // heads, item % heads
        head = x[t][h * dim : (h + 1) * dim]
        out = present[length + t, h]
        peak = np.int64(0)
        for d in range(dim):
            peak = max(peak, abs(np.int64(head[d])))
        reciprocal, shift = absmax_reciprocal(peak, INT4_LIMIT), absmax_shift(peak)
        for block in range(dim // BLOCK):
            columns = head[block * BLOCK : (block + 1) * BLOCK]
            pairs = out[block * HALF : (block + 1) * HALF]
            for b in range(HALF):
                low = round_shift(np.int64(columns[b]) * reciprocal, shift) + 8
                high = round_shift(np.int64(columns[HALF + b]) * reciprocal, shift) + 8
                pairs[b] = low + 16 * high
        present_absmax[length + t, h] = peak
