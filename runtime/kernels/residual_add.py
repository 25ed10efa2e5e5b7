"""ResidualAdd: requantise accumulators to the residual stream and add them."""

import numpy as np
import numpy.typing as npt

from edgellm.runtime.kernels._jit import kernel
from edgellm.runtime.kernels._scalar import (
    clamp,
    round_shift,
    share,
    token_multiplier,
    token_shift,
)

TERM_LIMIT = 2**47


@kernel("ResidualAdd")
def residual_add(
    thread: int,
    threads: int,
    x: npt.NDArray[np.int64],  # (T, N)
    acc: npt.NDArray[np.int32],  # (T, N)
    scale: npt.NDArray[np.int32],  # (T, 2)
    multiplier: npt.NDArray[np.int32],  # (N,)
    y: npt.NDArray[np.int64],  # (T, N)
    shift: int,
) -> None:
    """Split by columns."""
    begin, end = share(multiplier.shape[0], thread, threads)
    channel = multiplier[begin:end]
    for t in range(acc.shape[0]):
        mantissa = np.int64(scale[t, 0])
        total = token_shift(np.int64(scale[t, 1]), shift)
        stream = x[t][begin:end]
        row = acc[t][begin:end]
        out = y[t][begin:end]
        for n in range(row.shape[0]):
            term = round_shift(row[n] * token_multiplier(mantissa, channel[n]), total)
            out[n] = stream[n] + clamp(term, -TERM_LIMIT, TERM_LIMIT)
