"""LayerNormQuantize on a vector unit."""

# mypy: disable-error-code="call-arg"
# An intrinsic is declared with the typing context as its first argument, and called without.

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from edgellm.runtime.kernels._scalar import (
    INT32_MAX,
    Int,
    bit_length,
    clamp,
    stack_int64,
)
from edgellm.runtime.kernels.layer_norm_quantize import (
    ROW_BITS,
    UNIT_BITS,
    inverse_deviation,
    normalize_columns,
)
from edgellm.runtime.kernels.simd._unit import VectorUnit
from edgellm.runtime.kernels.vector._normalized_rows import centre_row, row_facts, scale_row
from edgellm.runtime.kernels.vector._requantized_rows import largest_magnitude, write_codes

ROWS = 8
"""Rows of a round: their roots and reciprocals do not wait for each other."""
PRODUCT_BITS = 44
"""Of a normalised value times a weight."""


def build(_unit: VectorUnit) -> Callable[..., None]:
    """Return the kernel."""

    def layer_norm_quantize(
        thread: int,
        threads: int,
        x: npt.NDArray[np.int32],  # (T, N)
        weight: npt.NDArray[np.int16],  # (N,)
        bias: npt.NDArray[np.int32],  # (N,)
        y: npt.NDArray[np.int32],  # (T, N)
        codes: npt.NDArray[np.int8],  # (T, N)
        out_scale: npt.NDArray[np.int32],  # (T, 2)
        epsilon_mantissa: int,
        epsilon_exponent: int,
        gain_mantissa: int,
        gain_exponent: int,
        shift: int,
        frame: int,
    ) -> None:
        epsilon, gain = (epsilon_mantissa, epsilon_exponent), (gain_mantissa, gain_exponent)
        columns, peaks = np.int64(x.shape[1]), stack_int64(ROWS)
        drops, squares = stack_int64(ROWS), stack_int64(ROWS)
        added: Int = largest_magnitude(bias)
        short = (np.int64(1) << PRODUCT_BITS >> shift) + 1 + added <= INT32_MAX
        for begin in range(thread, x.shape[0], ROWS * threads):
            end = min(begin + ROWS * threads, x.shape[0])
            for i, t in enumerate(range(begin, end, threads)):
                total, low, high = row_facts(x[t])
                peak = max(high * columns - total, total - low * columns)
                drops[i] = max(bit_length(peak) - ROW_BITS, 0)
                squares[i] = centre_row(x[t], y[t], columns, total, drops[i])
            for i, t in enumerate(range(begin, end, threads)):
                mantissa, exponent = inverse_deviation(squares[i], drops[i], epsilon, gain)
                fraction = clamp(exponent - UNIT_BITS, 1, 62)
                if short:
                    peaks[i] = scale_row(y[t], weight, bias, mantissa, fraction, shift)
                else:
                    normalize_columns(y[t], weight, bias, (mantissa, fraction, shift))
                    peaks[i] = largest_magnitude(y[t])
            for i, t in enumerate(range(begin, end, threads)):
                write_codes(y[t], peaks[i], codes[t], out_scale, (t, frame))

    return layer_norm_quantize
