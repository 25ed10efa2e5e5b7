"""ResidualAdd: requantise accumulators to the residual stream and add them."""

import numpy as np
import numpy.typing as npt

from edgellm.runtime.kernels._jit import kernel
from edgellm.runtime.kernels._scalar import (
    clamp,
    round_shift,
    token_multiplier,
    token_shift,
)

TERM_LIMIT = 2**47


@kernel("ResidualAdd", split="rows")
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
    """Split by rows."""
    for t in range(thread, acc.shape[0], threads):
        mantissa = np.int64(scale[t, 0])
        total = token_shift(np.int64(scale[t, 1]), shift)
        stream, row, out = x[t], acc[t], y[t]
        for n in range(row.shape[0]):
            term = round_shift(row[n] * token_multiplier(mantissa, multiplier[n]), total)
            out[n] = stream[n] + clamp(term, -TERM_LIMIT, TERM_LIMIT)
