"""Int8 codes of a row of int32 by its absmax."""

import numpy as np
import numpy.typing as npt

from edgellm.runtime.kernels._scalar import (
    Int,
    absmax_reciprocal,
    absmax_shift,
    normalize,
    product,
    round_shift,
    write_scale,
)

RECIPROCAL_127 = (1082196484, 37)
"""1/127 as a dyadic scale."""


def quantize_row(
    row: npt.NDArray[np.int32],
    codes: npt.NDArray[np.int8],
    out_scale: npt.NDArray[np.int32],
    t: Int,
    frame: Int,
) -> None:
    """Write the codes of a row of the fixed point ``frame``, and their scale to ``out_scale[t]``.

    Args:
        row: (N,) |x| <= 2^31 - 1.
        codes: (N,).
        out_scale: (T, 2).
        t: which row of it.
        frame: fixed point.
    """
    low = high = np.int32(0)
    for n in range(row.shape[0]):
        low, high = min(low, row[n]), max(high, row[n])
    peak = max(np.int64(high), -np.int64(low))
    reciprocal, shift = np.int32(absmax_reciprocal(peak)), absmax_shift(peak)
    for n in range(row.shape[0]):
        codes[n] = round_shift(np.int64(row[n]) * np.int64(reciprocal), shift)
    write_row_scale(peak, out_scale, t, frame)


def write_row_scale(peak: Int, out_scale: npt.NDArray[np.int32], t: Int, frame: Int) -> None:
    """Write the scale of the codes of a row with this absmax to ``out_scale[t]``."""
    mantissa, exponent = normalize(peak, frame)
    mantissa, exponent = product(mantissa, exponent, RECIPROCAL_127[0], RECIPROCAL_127[1])
    write_scale(out_scale, t, mantissa, exponent)
