"""The integer arithmetic that all operators share: one rounding rule, dyadic scales, isqrt.

A *dyadic scale* is a pair of integers (mantissa, exponent) that means mantissa * 2^-exponent, with
a 31-bit mantissa (2^30 <= mantissa < 2^31). Zero is (0, anything). Rounding is half up everywhere:
``(x + 2^(s-1)) >> s``. Everything is int64; the comment at each product says why it fits.
"""

import decimal

import numpy as np
import numpy.typing as npt

Int64 = npt.NDArray[np.int64]
Dyadic = tuple[int, int]
"""A constant dyadic scale."""

INT32_MAX = 2**31 - 1
MATMUL_COLUMNS = 4096
MANTISSA_BITS = 31
UNIT_SCALE = (2**30, 30)
"""The dyadic scale that means 1."""

RECIPROCAL_127 = (round(2**37 / 127), 37)
"""1/127 as a dyadic scale (1082196484 * 2^-37)."""


def bit_length(x: Int64) -> Int64:
    """Return the number of bits of each non-negative int64 (0 for 0)."""
    wide = np.asarray(x, dtype=np.int64)
    # Of the highest ones only the first is kept, so that float64 rounds to no more bits.
    _, bits = np.frexp((wide & ~(wide >> 1)).astype(np.float64))
    return bits.astype(np.int64)


def round_shift(x: Int64, shift: Int64 | int) -> Int64:
    """Return ``(x + 2^(shift-1)) >> shift``, and x itself where shift is 0."""
    shift = np.asarray(shift, dtype=np.int64)
    half = np.where(shift > 0, np.int64(1) << np.maximum(shift - 1, 0), 0)
    return (x + half) >> shift


def normalize(value: Int64, exponent: Int64 | int) -> tuple[Int64, Int64]:
    """Return the dyadic scale nearest to ``value * 2^-exponent`` (value >= 0, below 2^62)."""
    bits = bit_length(value)
    excess = bits - MANTISSA_BITS
    mantissa = np.where(
        excess > 0,
        round_shift(value, np.maximum(excess, 0)),
        value << np.maximum(-excess, 0),
    )
    carried = mantissa >> 31  # rounding up 2^31 - 1/2 gives 2^31: one bit too many
    return mantissa >> carried, exponent - excess - carried


def product(a: tuple[Int64, Int64], b: tuple[Int64, Int64] | Dyadic) -> tuple[Int64, Int64]:
    """Multiply two dyadic scales (mantissas below 2^31: their product fits in 62 bits)."""
    return normalize(round_shift(a[0] * b[0], 31), a[1] + b[1] - 31)


def isqrt(v: Int64) -> Int64:
    """Return the exact floor square root of each 1 <= v < 2^62 (arithmetic: Newton from above).

    The seed 2^ceil(bits/2) is not below the root, so the iterates fall until they reach it; 7 steps
    are enough for 63 bits, and taking the minimum makes further steps harmless.
    """
    root = np.int64(1) << ((bit_length(v) + 1) >> 1)
    for _ in range(7):
        root = np.minimum(root, (root + v // root) >> 1)
    return root


def absmax_codes(t: Int64, peak: Int64, limit: int = 127) -> Int64:
    """Return ``round(limit * t / peak)``, one reciprocal a row (0 where the peak is 0).

    Args:
        t: (..., N) int64, |t| <= peak.
        peak: (..., 1) int64 below 2^38, so that ``t * reciprocal <= 127 * 2^55 + ...`` < 2^62.
        limit: the largest code, at most 127.
    """
    shift = bit_length(peak) + 17
    safe = np.maximum(peak, 1)
    reciprocal = ((np.int64(limit) << shift) + (safe >> 1)) // safe
    return np.where(peak > 0, round_shift(t * reciprocal, shift), 0)


def requantize(acc: Int64, scale: npt.NDArray[np.int32], multiplier: Int64, shift: int) -> Int64:
    """Return ``acc * scale * multiplier * 2^-shift``, rounded once, not yet saturated.

    Args:
        acc: (T, N) accumulators, |acc| < 2^31.
        scale: (T, 2) int32, the dyadic scale of each row.
        multiplier: (N,) 0 <= multiplier < 2^31.
        shift: exponent that goes with the multiplier.
    """
    mantissa, exponent = split_scale(scale)
    combined = round_shift(mantissa * multiplier, 31)  # (T, N), below 2^31
    total = np.clip(exponent + (shift - 31), 1, 62)
    return round_shift(acc * combined, total)  # |acc * combined| < 2^62


def split_scale(scale: npt.NDArray[np.int32]) -> tuple[Int64, Int64]:
    """Split (R, 2) int32 into mantissa and exponent, each (R, 1) int64."""
    wide = scale.astype(np.int64)
    return wide[:, :1], wide[:, 1:]


def join_scale(mantissa: Int64, exponent: Int64) -> npt.NDArray[np.int32]:
    """Join (T, 1) mantissa and exponent to (T, 2) int32; a zero mantissa becomes the scale 1."""
    zero = mantissa == 0
    pair = [np.where(zero, UNIT_SCALE[0], mantissa), np.where(zero, UNIT_SCALE[1], exponent)]
    return np.concatenate(pair, axis=1).astype(np.int32)


def saturate(x: Int64, limit: int) -> Int64:
    """Clamp to [-limit, limit]."""
    return np.clip(x, -limit, limit)


def exp2_table(entries: int, bits: int) -> npt.NDArray[np.int64]:
    """Return ``round(2^bits * 2^-((i + 1/2) / entries))`` for i < entries.

    Decimal arithmetic, because libm's last bit differs between machines.
    """
    with decimal.localcontext(decimal.Context(prec=40)):
        two = decimal.Decimal(2)
        steps = [two ** (-(decimal.Decimal(2 * i + 1) / (2 * entries))) for i in range(entries)]
        return np.array([int((step * 2**bits).to_integral_value()) for step in steps], np.int64)


def exact_matmul(a: npt.NDArray[np.integer], b: npt.NDArray[np.integer]) -> Int64:
    """Return ``a @ b`` of integers as int64, exactly.

    Through float64, which BLAS is fast at: every partial sum is an integer below 2^53, which
    float64 holds exactly in any order of summation.
    """
    left = a.astype(np.float64)
    # In blocks of columns: float64 weights of a whole logits head would take gigabytes.
    blocks = np.array_split(b, -(-b.shape[-1] // MATMUL_COLUMNS) or 1, axis=-1)
    parts = [(left @ block.astype(np.float64)).astype(np.int64) for block in blocks]
    return np.concatenate(parts, axis=-1)
