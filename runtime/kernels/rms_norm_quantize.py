"""RmsNormQuantize: RMSNorm fused with the per-token absmax quantiser."""

import numpy as np
import numpy.typing as npt

from edgellm.runtime.kernels._jit import kernel
from edgellm.runtime.kernels._scalar import (
    absmax_reciprocal,
    absmax_shift,
    bit_length,
    norm_scale,
    round_shift,
    write_scale,
)

ROW_BITS = 22


@kernel("RmsNormQuantize", split="rows")
def rms_norm_quantize(
    thread: int,
    threads: int,
    x: npt.NDArray[np.int64],  # (T, N)
    scale: npt.NDArray[np.int32],  # (T, 2) or (1, 2)
    weight: npt.NDArray[np.int16],  # (N,)
    codes: npt.NDArray[np.int8],  # (T, N)
    out_scale: npt.NDArray[np.int32],  # (T, 2)
    epsilon_mantissa: int,
    epsilon_exponent: int,
    gain_mantissa: int,
    gain_exponent: int,
) -> None:
    """Split by rows."""
    for t in range(thread, x.shape[0], threads):
        row = x[t]
        out = codes[t]
        peak = np.int64(0)
        for n in range(row.shape[0]):
            peak = max(peak, abs(row[n]))
        drop = max(bit_length(peak) - ROW_BITS, 0)
        peak = np.int64(0)
        squares = np.int64(0)
        for n in range(row.shape[0]):
            value = np.int64(np.int32(round_shift(row[n], drop)))
            squares += value * value
            peak = max(peak, abs(value * np.int64(weight[n])))
        reciprocal, shift = absmax_reciprocal(peak), absmax_shift(peak)
        for n in range(row.shape[0]):
            weighted = np.int64(np.int32(round_shift(row[n], drop))) * np.int64(weight[n])
            out[n] = round_shift(weighted * reciprocal, shift)
        s = t if scale.shape[0] > 1 else 0
        pair = np.int64(scale[s, 0]), np.int64(scale[s, 1])
        epsilon = epsilon_mantissa, epsilon_exponent
        gain = gain_mantissa, gain_exponent
        mantissa, exponent = norm_scale(peak, squares, pair, drop, epsilon, gain)
        write_scale(out_scale, t, mantissa, exponent)
