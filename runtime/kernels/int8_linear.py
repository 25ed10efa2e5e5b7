"""Int8Linear: int8 activations times int8 weights, exact int32 accumulators."""

import numpy as np
import numpy.typing as npt

from edgellm.runtime.kernels._dot import dot
from edgellm.runtime.kernels._jit import kernel
from edgellm.runtime.kernels._scalar import share


@kernel("Int8Linear", split="cells")
def int8_linear(
    thread: int,
    threads: int,
    x: npt.NDArray[np.int8],  # (T, K)
    weight: npt.NDArray[np.int8],  # (N, K)
    acc: npt.NDArray[np.int32],  # (T, N)
) -> None:
    """Split by output features."""
    begin, end = share(weight.shape[0], thread, threads)
    for n in range(begin, end):
        row = weight[n]
        for t in range(x.shape[0]):
            acc[t, n] = dot(x[t], row)
