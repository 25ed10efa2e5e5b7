"""ILayerNorm: the LayerNorm of I-ViT."""

import numpy as np
import numpy.typing as npt

from edgellm.runtime.kernels._jit import kernel
from edgellm.runtime.kernels._scalar import INT32_MAX, Int, clamp

SEED = 1 << 16
STEPS = 10


def half_even_mean(total: Int, count: Int) -> Int:
    """Return ``total / count`` rounded to the nearest integer, of two to the even one."""
    floor = total // count
    twice = 2 * (total - floor * count)
    if twice > count or (twice == count and floor & 1 == 1):
        return floor + 1
    return floor


@kernel("ILayerNorm", split="rows")
def i_layer_norm(
    thread: int,
    threads: int,
    x: npt.NDArray[np.int32],  # (T, N)
    bias: npt.NDArray[np.int32],  # (N,)
    y: npt.NDArray[np.int32],  # (T, N)
) -> None:
    """Split by rows."""
    for t in range(thread, x.shape[0], threads):
        row, out = x[t], y[t]
        total = np.int64(0)
        for j in range(row.shape[0]):
            total += np.int64(row[j])
        mean = half_even_mean(total, np.int64(row.shape[0]))
        squares = np.int64(0)
        for j in range(row.shape[0]):
            centred = np.int64(row[j]) - mean
            squares += centred * centred
        root = np.int64(SEED)
        for _ in range(STEPS):
            root = (root + squares // root) >> 1
        factor = INT32_MAX // root
        for j in range(row.shape[0]):
            wide = ((np.int64(row[j]) - mean) * factor) >> 1
            out[j] = clamp(wide + np.int64(bias[j]), -INT32_MAX, INT32_MAX)
