"""RmsNormQuantize: RMSNorm fused with the per-token absmax quantiser."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from edgellm.runtime.kernels._jit import kernel
from edgellm.runtime.kernels._scalar import (
    Int,
    Pair,
    absmax_reciprocal,
    absmax_shift,
    bit_length,
    norm_scale,
    round_shift,
    write_scale,
)

ROW_BITS = 22

Wides = npt.NDArray[np.int64]
Weights = npt.NDArray[np.int16]
Scales = npt.NDArray[np.int32]


class Facts(NamedTuple):
    """Facts of a row.

    Attributes:
        drop: by how many bits it is shifted.
        peak: the largest magnitude of its products with the weights.
        squares: their sum, without weights.
    """

    drop: Int
    peak: Int
    squares: Int


def measure(row: Wides, weight: Weights) -> Facts:
    """Return the facts of a row."""
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
    return Facts(drop, peak, squares)


def write_codes(
    row: Wides, weight: Weights, drop: Int, scaling: Pair, codes: npt.NDArray[np.int8]
) -> None:
    """Write the codes of a row; scaling is the reciprocal of its peak, and the shift with it."""
    reciprocal, shift = scaling
    for n in range(row.shape[0]):
        weighted = np.int64(np.int32(round_shift(row[n], drop))) * np.int64(weight[n])
        codes[n] = round_shift(weighted * reciprocal, shift)


def write_norm_scale(
    out_scale: Scales, t: Int, facts: Facts, scale: Scales, constants: tuple[Pair, Pair]
) -> None:
    """Write the scale of the codes of row t; constants are epsilon and gain."""
    s = t if scale.shape[0] > 1 else 0
    pair = np.int64(scale[s, 0]), np.int64(scale[s, 1])
    epsilon, gain = constants
    mantissa, exponent = norm_scale(facts.peak, facts.squares, pair, facts.drop, epsilon, gain)
    write_scale(out_scale, t, mantissa, exponent)


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
    epsilon, gain = (epsilon_mantissa, epsilon_exponent), (gain_mantissa, gain_exponent)
    for t in range(thread, x.shape[0], threads):
        facts = measure(x[t], weight)
        scaling = absmax_reciprocal(facts.peak), absmax_shift(facts.peak)
        write_codes(x[t], weight, facts.drop, scaling, codes[t])
        write_norm_scale(out_scale, t, facts, scale, (epsilon, gain))
