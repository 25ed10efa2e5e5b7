"""RequantizeBias: accumulators to fixed point, by row scale and channel multiplier, plus a bias."""

import numpy as np
import numpy.typing as npt

from edgellm.runtime.kernels._jit import kernel
from edgellm.runtime.kernels._scalar import (
    Pair,
    round_shift,
    saturate,
    share,
    token_multiplier,
    token_shift,
)

Ints = npt.NDArray[np.int32]


def requantize_columns(row: Ints, multiplier: Ints, bias: Ints, out: Ints, scale: Pair) -> None:
    """Write a row of results; ``scale`` is the mantissa of the row and the shift of its results."""
    mantissa, total = scale
    for n in range(row.shape[0]):
        wide = round_shift(np.int64(row[n]) * token_multiplier(mantissa, multiplier[n]), total)
        out[n] = saturate(wide + np.int64(bias[n]))


@kernel("RequantizeBias", split="cells")
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
        total = token_shift(np.int64(scale[t, 1]), shift)
        row, out = acc[t][begin:end], y[t][begin:end]
        requantize_columns(row, channel, offset, out, (np.int64(scale[t, 0]), total))
