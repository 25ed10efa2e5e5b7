"""Real constants to integers: dyadic scales, multipliers of channels, norm weights.

The counterpart of the arithmetic in ``edgellm/ops``: a dyadic scale is mantissa * 2^-exponent with
2^30 <= mantissa < 2^31. Everything is derived in float64, whose 53 bits hold a mantissa exactly.
"""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgellm.errors import ExportError

MANTISSA_BITS = 31
MIN_SHIFT, MAX_SHIFT = 1, 62
"""The shifts that an int64 can be rounded by."""
NORM_BITS = 15
"""Norm weights are int16: the largest takes 15 bits and the sign."""


@dataclass(frozen=True)
class Multipliers:
    """Factors of channels: real factor n = values[n] * 2^-shift; (N,) int32."""

    values: npt.NDArray[np.int32]
    shift: int


def dyadic(value: float) -> tuple[int, int]:
    """Return (mantissa, exponent) of a real number >= 0; zero is (0, 0)."""
    if not math.isfinite(value) or value < 0:
        raise ExportError(f"{value} is no scale; allowed are finite numbers that are not negative")
    if value == 0:
        return 0, 0
    fraction, power = math.frexp(value)
    mantissa = round(fraction * 2**MANTISSA_BITS)
    if mantissa == 2**MANTISSA_BITS:  # the fraction rounded up to 1
        mantissa, power = mantissa // 2, power + 1
    return mantissa, MANTISSA_BITS - power


def multipliers(factors: npt.NDArray[np.float64], where: str) -> Multipliers:
    """Return one multiplier a channel, all with the shift of the largest factor.

    Raises:
        ExportError: all factors are zero, or the largest is no finite number.
    """
    largest = float(factors.max())
    mantissa, shift = dyadic(largest)
    if mantissa == 0:
        raise ExportError(f"{where}: all scales are zero")
    return Multipliers(np.rint(np.ldexp(factors, shift)).astype(np.int32), shift)


@dataclass(frozen=True)
class Requantizer:
    """What DyadicRequantize takes: (N,) int32 and (N,) int64, both times 2^-shift."""

    multiplier: npt.NDArray[np.int32]
    offset: npt.NDArray[np.int64]
    shift: int


OFFSET_BITS = 60
"""Bits of the largest offset; with 2^62 of the product the sum stays below 2^63."""


def requantizer(
    factors: npt.NDArray[np.float64], offsets: npt.NDArray[np.float64], where: str
) -> Requantizer:
    """Return the constants of ``x * factors + offsets``, all with one shift.

    Args:
        factors: (N,) of either sign; the largest gets 31 bits, unless the offsets need them.
        offsets: (N,) in units of the result.
        where: the name of the tensor, for errors.

    Raises:
        ExportError: a factor is out of the range of the operator.
    """
    mantissa, shift = dyadic(float(np.abs(factors).max()))
    room = OFFSET_BITS - math.frexp(float(np.abs(offsets).max()))[1]
    shift = min(shift if mantissa else MAX_SHIFT, room, MAX_SHIFT)
    check_shift(shift, where)
    return Requantizer(
        np.rint(np.ldexp(factors, shift)).astype(np.int32),
        np.rint(np.ldexp(offsets, shift)).astype(np.int64),
        shift,
    )


def check_shift(total: int, where: str) -> None:
    """Refuse a shift that the integer rounding cannot do.

    Raises:
        ExportError: with the name of the tensor whose scale is out of range.
    """
    if not MIN_SHIFT <= total <= MAX_SHIFT:
        raise ExportError(
            f"{where}: its scale needs a shift of {total} bits, allowed are {MIN_SHIFT} to "
            f"{MAX_SHIFT}; the weights are far outside the usual range: is the checkpoint sound?"
        )


def norm_weight(weight: npt.NDArray[np.float32], where: str) -> tuple[npt.NDArray[np.int16], int]:
    """Return int16 values and g such that weight = values * 2^-g, the largest in [2^14, 2^15).

    Raises:
        ExportError: all weights are zero.
    """
    peak = float(np.abs(weight).max())
    if peak == 0:
        raise ExportError(f"{where}: all norm weights are zero")
    _, power = math.frexp(peak)
    bits = NORM_BITS - power
    if round(math.ldexp(peak, bits)) == 2**NORM_BITS:
        bits -= 1
    values = np.rint(np.ldexp(weight.astype(np.float64), bits))
    return values.astype(np.int16), bits
