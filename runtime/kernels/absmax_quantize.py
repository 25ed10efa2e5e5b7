"""AbsmaxQuantize: per-token int8 codes of a row, with its scale as a dyadic pair."""

import numpy as np
import numpy.typing as npt

from edgellm.runtime.kernels._jit import kernel
from edgellm.runtime.kernels._scalar import (
    absmax_reciprocal,
    absmax_shift,
    bit_length,
    normalize,
    product,
    round_shift,
    write_scale,
)

ROW_BITS = 37
RECIPROCAL_127 = (1082196484, 37)
"""1/127 as a dyadic scale."""


@kernel("AbsmaxQuantize", split="rows")
def absmax_quantize(
    thread: int,
    threads: int,
    x: npt.NDArray[np.int64],  # (T, N)
    scale: npt.NDArray[np.int32],  # (T, 2) or (1, 2)
    codes: npt.NDArray[np.int8],  # (T, N)
    out_scale: npt.NDArray[np.int32],  # (T, 2)
) -> None:
    """Split by rows."""
    for t in range(thread, x.shape[0], threads):
        row = x[t]
        out = codes[t]
        low = high = np.int64(0)
        for n in range(row.shape[0]):
            low, high = min(low, row[n]), max(high, row[n])
        drop = max(bit_length(max(high, -low)) - ROW_BITS, 0)
        # The peak of the shifted row: rounding keeps the order, but is not symmetric.
        peak = max(round_shift(high, drop), -round_shift(low, drop))
        reciprocal, shift = absmax_reciprocal(peak), absmax_shift(peak)
        for n in range(row.shape[0]):
            out[n] = round_shift(round_shift(row[n], drop) * reciprocal, shift)
        s = t if scale.shape[0] > 1 else 0
        mantissa, exponent = normalize(peak, -drop)
        mantissa, exponent = product(mantissa, exponent, scale[s, 0], scale[s, 1])
        mantissa, exponent = product(mantissa, exponent, RECIPROCAL_127[0], RECIPROCAL_127[1])
        write_scale(out_scale, t, mantissa, exponent)
