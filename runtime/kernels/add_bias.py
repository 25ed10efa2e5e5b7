"""AddBias: add a bias of the same fixed point, saturating."""

import numpy as np
import numpy.typing as npt

from edgellm.runtime.kernels._jit import kernel
from edgellm.runtime.kernels._scalar import INT32_MAX, clamp, share


@kernel("AddBias", split="columns")
def add_bias(
    thread: int,
    threads: int,
    x: npt.NDArray[np.int32],  # (T, N)
    bias: npt.NDArray[np.int32],  # (N,)
    y: npt.NDArray[np.int32],  # (T, N)
) -> None:
    """Split by columns."""
    begin, end = share(bias.shape[0], thread, threads)
    added = bias[begin:end]
    for t in range(x.shape[0]):
        row = x[t][begin:end]
        out = y[t][begin:end]
        for n in range(row.shape[0]):
            out[n] = clamp(np.int64(row[n]) + np.int64(added[n]), -INT32_MAX, INT32_MAX)
