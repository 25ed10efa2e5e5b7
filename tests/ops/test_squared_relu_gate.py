from fractions import Fraction

import numpy as np

from edgellm.ops.squared_relu_gate import INPUT_LIMIT, reference

MULTIPLIER = {"multiplier_mantissa": 1_234_567_891, "multiplier_exponent": 44}


def test_product_is_exact_at_the_limit():
    assert INPUT_LIMIT**3 < 2**63
    limit = np.array([[INPUT_LIMIT, -INPUT_LIMIT, INPUT_LIMIT]], np.int32)
    up = np.array([[INPUT_LIMIT, INPUT_LIMIT, -INPUT_LIMIT]], np.int32)
    y, _ = reference(limit, up, np.array([[2**30, 30]], np.int32), **MULTIPLIER)
    assert y.tolist() == [[INPUT_LIMIT**3, 0, -(INPUT_LIMIT**3)]]


def test_scale_is_the_cube_times_the_multiplier():
    """Three products, each rounded twice by half of 2^-30 at most."""
    scale = np.array([[2_000_000_011, 40]], np.int32)
    ones = np.ones((1, 1), np.int32)
    _, out = reference(ones, ones, scale, **MULTIPLIER)
    mantissa, exponent = (int(part) for part in out[0])
    exact = Fraction(2_000_000_011, 2**40) ** 3 * Fraction(1_234_567_891, 2**44)
    assert abs(Fraction(mantissa) / 2**exponent / exact - 1) <= Fraction(3, 2**30)
