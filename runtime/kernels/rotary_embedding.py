"""RotaryEmbedding: rotate the halves of each head by the position."""

import numpy as np
import numpy.typing as npt

from edgellm.runtime.kernels._jit import kernel
from edgellm.runtime.kernels._scalar import INT32_MAX, clamp, round_shift, share

TABLE_BITS = 14


@kernel("RotaryEmbedding", split="heads")
def rotary_embedding(
    thread: int,
    threads: int,
    x: npt.NDArray[np.int32],  # (T, M)
    position_ids: npt.NDArray[np.int64],  # (T,)
    cos: npt.NDArray[np.int16],  # (C, P), M a multiple of 2 * P
    sin: npt.NDArray[np.int16],  # (C, P)
    y: npt.NDArray[np.int32],  # (T, M)
) -> None:
    """Split by heads of rows."""
    half = cos.shape[1]
    heads = x.shape[1] // (2 * half)
    begin, end = share(x.shape[0] * heads, thread, threads)
    for item in range(begin, end):
        t, first = item // heads, item % heads * 2 * half
        head = x[t][first : first + 2 * half]
        out = y[t][first : first + 2 * half]
        c, s = cos[position_ids[t]], sin[position_ids[t]]
        for p in range(half):
            a, b = np.int64(head[p]), np.int64(head[half + p])
            first_half = round_shift(a * c[p] - b * s[p], TABLE_BITS)
            second_half = round_shift(b * c[p] + a * s[p], TABLE_BITS)
            out[p] = clamp(first_half, -INT32_MAX, INT32_MAX)
            out[half + p] = clamp(second_half, -INT32_MAX, INT32_MAX)
