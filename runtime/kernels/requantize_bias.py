"""RequantizeBias: accumulators to fixed point, by row scale and channel multiplier, plus a bias."""

import numpy as np
import numpy.typing as npt

from edgellm.runtime.kernels._jit import kernel
from edgellm.runtime.kernels._scalar import (
    round_shift,
    saturate,
    share,
    token_multiplier,
    token_shift,
)


@kernel("RequantizeBias", split="columns")
def requantize_bias(
    thread: int,
    threads: int,
    acc: npt.NDArray[np.int32],  # (T, N)
    scale: npt.NDArray[np.int32],  # (T, 2)
    multiplier: npt.NDArray[np.int32],  # (N,)
    bias: npt.NDArray[np.int32],  # (N,)
    y: npt.NDArray[np.int32],  # (T, N)
    shift: int,
) -> None:
    """Split by columns."""
    begin, end = share(multiplier.shape[0], thread, threads)
    channel, offset = multiplier[begin:end], bias[begin:end]
    for t in range(acc.shape[0]):
        mantissa = np.int64(scale[t, 0])
        total = token_shift(np.int64(scale[t, 1]), shift)
        row = acc[t][begin:end]
        out = y[t][begin:end]
        for n in range(row.shape[0]):
            wide = round_shift(np.int64(row[n]) * token_multiplier(mantissa, channel[n]), total)
            out[n] = saturate(wide + np.int64(offset[n]))
