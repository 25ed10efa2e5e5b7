"""The scale of the two RMSNorm operators as ONNX nodes; ``_norms`` says what it means."""

from edgellm.ops._body import Value
from edgellm.ops._body_integers import Dyadic, bit_length, isqrt, normalize, power_of_two, product


def norm_scale(
    peak: Value,
    squares: Value,
    scale: Dyadic,
    shift: Value,
    epsilon: Dyadic,
    gain: Dyadic,
) -> Dyadic:
    """Return ``peak * gain / sqrt(squares + epsilon / unit^2)`` as a dyadic scale."""
    radicand, half_exponent = add_epsilon(squares, scale, shift, epsilon)
    even = (62 - bit_length(radicand)) & -2
    root = isqrt(radicand * power_of_two(even))
    mantissa, exponent = product(normalize(peak, 0), gain)
    quotient = mantissa * 2**31 // root
    return normalize(quotient, exponent + 31 + half_exponent - even // 2)


def add_epsilon(squares: Value, scale: Dyadic, shift: Value, epsilon: Dyadic) -> Dyadic:
    """Return (v, h) with ``v * 2^(2h)`` = squares + epsilon / unit^2."""
    mantissa, exponent = scale
    square = mantissa * mantissa // 2**31
    quotient = epsilon[0] * 2**31 // square
    right = 62 + epsilon[1] - exponent * 2 + shift * 2
    excess = (bit_length(quotient) - right - 60).at_least(0)
    excess = excess + (excess & 1)
    right = excess.body.where(quotient > 0, right + excess, 0)
    excess = excess.body.where(quotient > 0, excess, 0)
    term = quotient // power_of_two(right.clip(0, 62)) * power_of_two((-right).at_least(0))
    radicand = squares // power_of_two(excess.at_most(62)) + term
    return radicand.at_least(1), excess // 2
