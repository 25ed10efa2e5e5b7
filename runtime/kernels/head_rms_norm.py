"""HeadRmsNorm: RMSNorm of each attention head, fixed point in and out."""

import numpy as np
import numpy.typing as npt

from edgellm.runtime.kernels._jit import kernel
from edgellm.runtime.kernels._scalar import (
    INT32_MAX,
    bit_length,
    clamp,
    norm_scale,
    round_shift,
    share,
)

ROW_BITS = 16


@kernel("HeadRmsNorm", split="heads")
def head_rms_norm(
    thread: int,
    threads: int,
    x: npt.NDArray[np.int32],  # (T, M)
    weight: npt.NDArray[np.int16],  # (D,)
    y: npt.NDArray[np.int32],  # (T, M)
    frame: int,
    epsilon_mantissa: int,
    epsilon_exponent: int,
    gain_mantissa: int,
    gain_exponent: int,
) -> None:
    """Split by heads of rows."""
    dim = weight.shape[0]
    heads = x.shape[1] // dim
    unit = 1 << 30, 30 + frame
    epsilon = epsilon_mantissa, epsilon_exponent
    gain = gain_mantissa, gain_exponent
    begin, end = share(x.shape[0] * heads, thread, threads)
    for item in range(begin, end):
        t, first = item // heads, item % heads * dim
        head = x[t][first : first + dim]
        out = y[t][first : first + dim]
        peak = np.int64(0)
        for d in range(dim):
            peak = max(peak, abs(np.int64(head[d])))
        drop = max(bit_length(peak) - ROW_BITS, 0)
        squares = np.int64(0)
        for d in range(dim):
            value = round_shift(np.int64(head[d]), drop)
            squares += value * value
        mantissa, exponent = norm_scale(1, squares, unit, drop, epsilon, gain)
        shift = clamp(exponent, 1, 62)
        for d in range(dim):
            weighted = round_shift(np.int64(head[d]), drop) * weight[d]
            out[d] = clamp(round_shift(weighted * mantissa, shift), -INT32_MAX, INT32_MAX)
