"""Shiftmax: the softmax of I-ViT."""

import numpy as np
import numpy.typing as npt

from edgellm.runtime.kernels._jit import kernel
from edgellm.runtime.kernels._scalar import Int
from edgellm.runtime.kernels._shift_exp import normalizer, shift_exp


def write_exponentials(out: npt.NDArray[np.int64], unit: Int, n: Int, half_bit: Int) -> None:
    """Write the exponentials of 0, -1, -2..., all that two codes can be apart."""
    for distance in range(out.shape[0]):
        out[distance] = shift_exp(-np.int64(distance), unit, n, half_bit)


@kernel("Shiftmax", split="rows")
def shiftmax(
    thread: int,
    threads: int,
    x: npt.NDArray[np.int8],  # (T, L)
    y: npt.NDArray[np.int16],  # (T, L)
    unit: int,
    n: int,
    bits: int,
    half_bit: int,
) -> None:
    """Split by rows."""
    for t in range(thread, x.shape[0], threads):
        row, out = x[t], y[t]
        best = np.int64(row[0])
        for j in range(row.shape[0]):
            best = max(best, np.int64(row[j]))
        total = np.int64(0)
        for j in range(row.shape[0]):
            total += shift_exp(np.int64(row[j]) - best, unit, n, half_bit)
        factor = normalizer(total)
        for j in range(row.shape[0]):
            e = shift_exp(np.int64(row[j]) - best, unit, n, half_bit)
            out[j] = (e * factor) >> (32 - bits)
