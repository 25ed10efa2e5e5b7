"""I-ViT's ShiftExp on single values; what it means is in ``ops/_shift_exp.py``."""

from edgellm.runtime.kernels._scalar import INT32_MAX, Int

MOST_SHIFT = 32


def shift_exp(x: Int, unit: Int, n: Int, half_bit: Int) -> Int:
    """Return about ``e^(S * x) * unit * 2^n``, S about 1 / unit."""
    scaled = max(x + (x >> 1) - (x >> 4), -n * unit)
    quotient = -((scaled + unit - 1) // unit)  # floor(-scaled / unit)
    rest = scaled + quotient * unit
    mantissa = rest + 2 * unit
    if half_bit == 0:
        mantissa = 2 * ((rest >> 1) + unit)
    return (mantissa << min(n - quotient, MOST_SHIFT)) >> 1


def normalizer(total: Int) -> Int:
    """Return ``(2^31 - 1) / total``, rounded down, at least 1."""
    return INT32_MAX // min(total, INT32_MAX)
