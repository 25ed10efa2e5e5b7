"""LayerNormQuantize: LayerNorm, its result and the result's int8 codes."""

import numpy as np
import numpy.typing as npt

from edgellm.runtime.kernels._jit import kernel
from edgellm.runtime.kernels._rows import quantize_row
from edgellm.runtime.kernels._scalar import (
    UNIT_EXPONENT,
    UNIT_MANTISSA,
    Int,
    Pair,
    add_epsilon,
    bit_length,
    clamp,
    isqrt,
    normalize,
    product,
    round_shift,
    saturate,
)

ROW_BITS = 22
UNIT_BITS = 20


def centre(row: npt.NDArray[np.int32], out: npt.NDArray[np.int32]) -> Pair:
    """Write ``N * x - sum(x)`` shifted to 22 bits; return the shift and the sum of the squares."""
    columns = np.int64(np.int32(row.shape[0]))  # as of 32 bits: see token_multiplier
    total = np.int64(0)
    low = high = np.int64(row[0])
    for n in range(row.shape[0]):
        value = np.int64(row[n])
        total += value
        low, high = min(low, value), max(high, value)
    peak = max(high * columns - total, total - low * columns)
    drop = max(bit_length(peak) - ROW_BITS, 0)
    squares = np.int64(0)
    for n in range(row.shape[0]):
        short = np.int64(np.int32(round_shift(np.int64(row[n]) * columns - total, drop)))
        squares += short * short
        out[n] = short
    return drop, squares


def inverse_deviation(squares: Int, drop: Int, epsilon: Pair, gain: Pair) -> Pair:
    """Return ``gain / sqrt(squares + epsilon)`` as a dyadic scale."""
    unit = np.int64(UNIT_MANTISSA), np.int64(UNIT_EXPONENT)
    radicand, half_exponent = add_epsilon(squares, unit, drop, epsilon)
    even = (62 - bit_length(radicand)) & -2
    inverse = (1 << 61) // isqrt(radicand << even)
    mantissa, exponent = normalize(inverse, 61)
    mantissa, exponent = product(mantissa, exponent, gain[0], gain[1])
    return mantissa, exponent + half_exponent - (even >> 1)


def normalize_columns(
    out: npt.NDArray[np.int32],
    weight: npt.NDArray[np.int16],
    bias: npt.NDArray[np.int32],
    scale: tuple[Int, Int, Int],
) -> None:
    """Replace centred values by results; ``scale`` is a factor, its shift, and that of weights."""
    factor, fraction, shift = np.int32(scale[0]), scale[1], scale[2]
    for n in range(out.shape[0]):
        unit = np.int64(np.int32(round_shift(np.int64(out[n]) * np.int64(factor), fraction)))
        scaled = round_shift(unit * np.int64(weight[n]), shift) + np.int64(bias[n])
        out[n] = saturate(scaled)


@kernel("LayerNormQuantize", split="rows")
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
    """Split by rows."""
    epsilon = epsilon_mantissa, epsilon_exponent
    gain = gain_mantissa, gain_exponent
    for t in range(thread, x.shape[0], threads):
        out = y[t]
        drop, squares = centre(x[t], out)
        mantissa, exponent = inverse_deviation(squares, drop, epsilon, gain)
        fraction = clamp(exponent - UNIT_BITS, 1, 62)
        normalize_columns(out, weight, bias, (mantissa, fraction, shift))
        quantize_row(out, codes[t], out_scale, t, frame)
