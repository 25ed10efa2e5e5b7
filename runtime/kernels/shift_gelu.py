"""ShiftGelu: the GELU of I-ViT."""

import numpy as np
import numpy.typing as npt

from edgellm.runtime.kernels._jit import kernel
from edgellm.runtime.kernels._scalar import stack_int64
from edgellm.runtime.kernels._shift_exp import normalizer, shift_exp

CODES = 256
"""An element of a row follows from its code, so each code is computed once a row."""


@kernel("ShiftGelu", split="rows")
def shift_gelu(
    thread: int,
    threads: int,
    x: npt.NDArray[np.int8],  # (T, N)
    y: npt.NDArray[np.int32],  # (T, N)
    unit: int,
    n: int,
    bits: int,
    half_bit: int,
) -> None:
    """Split by rows."""
    table = stack_int64(CODES)
    for t in range(thread, x.shape[0], threads):
        row, out = x[t], y[t]
        peak = np.int64(row[0])
        for j in range(row.shape[0]):
            peak = max(peak, np.int64(row[j]))
        last = shift_exp(-peak, unit, n, half_bit)
        for distance in range(CODES):
            e = shift_exp(-np.int64(distance), unit, n, half_bit)
            table[distance] = (e * normalizer(e + last)) >> (32 - bits)
        for j in range(row.shape[0]):
            code = np.int64(row[j])
            out[j] = code * table[peak - code]
