"""What the two RMSNorm operators share: ``peak * gain / sqrt(squares + eps)`` in integers."""

import numpy as np

from edgellm.ops._integers import Dyadic, Int64, bit_length, isqrt, normalize, product


def row_sum_of_squares(rows: Int64) -> Int64:
    """Return (T, 1) sums of squares."""
    return (rows * rows).sum(axis=-1, keepdims=True)


def norm_scale(
    peak: Int64,
    squares: Int64,
    scale: tuple[Int64, Int64],
    shift: Int64,
    epsilon: Dyadic,
    gain: Dyadic,
) -> tuple[Int64, Int64]:
    """Return ``peak * gain / sqrt(squares + epsilon / unit^2)`` as a dyadic scale.

    ``unit = scale * 2^shift`` is the real value of one step of the rows that ``squares`` sums.

    Args:
        peak: (T, 1) below 2^38.
        squares: (T, 1) at most 2^60.
        scale: mantissa and exponent of the rows before their shift, (T, 1) or (1, 1) each.
        shift: (T, 1) how far the rows were shifted right.
        epsilon: ``eps * N`` as a dyadic scale, mantissa 0 for none.
        gain: constant factor.
    """
    radicand, half_exponent = add_epsilon(squares, scale, shift, epsilon)
    even = (62 - bit_length(radicand)) & ~np.int64(1)
    root = isqrt(radicand << even)  # 2^30 <= root < 2^31
    mantissa, exponent = product(normalize(peak, 0), gain)
    quotient = (mantissa << 31) // root  # mantissa < 2^31: the dividend fits in 62 bits
    return normalize(quotient, exponent + 31 + half_exponent - (even >> 1))


def add_epsilon(
    squares: Int64, scale: tuple[Int64, Int64], shift: Int64, epsilon: Dyadic
) -> tuple[Int64, Int64]:
    """Return (v, h) with ``v * 2^(2h)`` = squares + epsilon / unit^2, v >= 1 and below 2^62.

    epsilon / unit^2 can exceed 62 bits when a row is tiny beside eps: then both terms are shifted
    right by the same even count, and h says by how much.
    """
    mantissa, exponent = scale
    square = (mantissa * mantissa) >> 31  # 2^29 <= square < 2^31
    quotient = (np.int64(epsilon[0]) << 31) // square  # below 2^33
    right = 62 + epsilon[1] - 2 * exponent + 2 * shift
    excess = np.maximum(bit_length(quotient) - right - 60, 0)
    excess = excess + (excess & 1)
    right = np.where(quotient > 0, right + excess, 0)  # no eps: nothing to make room for
    excess = np.where(quotient > 0, excess, 0)
    term = (quotient >> np.clip(right, 0, 62)) << np.maximum(-right, 0)
    radicand = (squares >> np.minimum(excess, 62)) + term
    return np.maximum(radicand, 1), excess >> 1
