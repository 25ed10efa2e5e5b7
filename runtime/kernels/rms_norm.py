"""RmsNorm: RMSNorm with its result as numbers."""

import numpy as np
import numpy.typing as npt

from edgellm.runtime.kernels._jit import kernel
from edgellm.runtime.kernels._scalar import bit_length, clamp, norm_scale, round_shift

ROW_BITS = 22
FACTOR_SHIFT = 7


@kernel("RmsNorm", split="rows")
def rms_norm(
    thread: int,
    threads: int,
    x: npt.NDArray[np.int64],  # (T, N)
    scale: npt.NDArray[np.int32],  # (T, 2) or (1, 2)
    weight: npt.NDArray[np.int16],  # (N,)
    y: npt.NDArray[np.int64],  # (T, N)
    epsilon_mantissa: int,
    epsilon_exponent: int,
    gain_mantissa: int,
    gain_exponent: int,
) -> None:
    """Split by rows."""
    epsilon = epsilon_mantissa, epsilon_exponent
    gain = gain_mantissa, gain_exponent
    for t in range(thread, x.shape[0], threads):
        row, out = x[t], y[t]
        peak = np.int64(0)
        for n in range(row.shape[0]):
            peak = max(peak, abs(row[n]))
        drop = max(bit_length(peak) - ROW_BITS, 0)
        squares = np.int64(0)
        for n in range(row.shape[0]):
            value = round_shift(row[n], drop)
            squares += value * value
        s = t if scale.shape[0] > 1 else 0
        unit = np.int64(scale[s, 0]), np.int64(scale[s, 1])
        mantissa, exponent = norm_scale(1, squares, unit, drop, epsilon, gain)
        factor = round_shift(mantissa, FACTOR_SHIFT)
        shift = clamp(exponent - FACTOR_SHIFT, 1, 62)
        for n in range(row.shape[0]):
            weighted = round_shift(row[n], drop) * np.int64(weight[n])
            out[n] = round_shift(weighted * factor, shift)
