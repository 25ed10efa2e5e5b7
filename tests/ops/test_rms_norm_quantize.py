import math

import numpy as np
import pytest

from edgellm.ops import rms_norm_quantize
from edgellm.ops._examples import norm_attributes

SCALE = np.array([[1_500_000_000, 54]], np.int32)
UNIT = 1_500_000_000 * 2.0**-54


def run(x, weight, epsilon=1e-5, scale=SCALE):
    columns = x.shape[1]
    attributes = norm_attributes(epsilon * columns, math.sqrt(columns) * 2.0**-12 / 127)
    codes, out = rms_norm_quantize.reference(x, scale, weight, **attributes)
    return codes, out[:, :1] * 2.0 ** -out[:, 1:].astype(np.float64)


def float_norm(x, weight, epsilon, unit=UNIT):
    real = x * unit
    rms = np.sqrt((real * real).mean(axis=1, keepdims=True) + epsilon)
    return real * (weight * 2.0**-12) / rms


def random_row(bits, columns=172):
    rng = np.random.default_rng(bits)
    x = rng.integers(-(2**bits), 2**bits, (2, columns))
    return x, rng.integers(2**11, 2**13, columns).astype(np.int16)


@pytest.mark.parametrize("bits", [12, 21, 30, 40, 61])
def test_codes_and_scale_are_near_float(bits):
    """Rows wider than 22 bits are rounded to 22: half a unit of 2^21 or more, times a weight up to
    4 times that of the peak, is 2^-20 of it; the peak itself moves as much. Then 127 codes."""
    x, weight = random_row(bits)
    codes, out_scale = run(x, weight)
    wanted = float_norm(x, weight, 1e-5)
    peak = np.abs(wanted).max(axis=1, keepdims=True)
    limit = 0.5 + 2.0**-18 + 127 * 2.0**-19
    assert np.abs(codes - 127 * wanted / peak).max() <= limit
    # The rows' rounding again; mantissas of 31 bits add a few 2^-30, floors included.
    np.testing.assert_allclose(out_scale, peak / 127, rtol=2.0**-19)


@pytest.mark.parametrize("exponent", [54, 60, 80, 100])
def test_epsilon_of_rows_that_are_tiny_beside_it(exponent):
    """eps / unit^2 exceeds 2^62 from an exponent of 70 on: both terms are shifted then."""
    x, weight = random_row(8)
    scale = np.array([[1_500_000_000, exponent]], np.int32)
    unit = 1_500_000_000 * 2.0**-exponent
    _, out_scale = run(x, weight, scale=scale)
    peak = np.abs(float_norm(x, weight, 1e-5, unit)).max(axis=1, keepdims=True)
    # eps * N is a whole number of units^2, at least 2^20 of them: a floor and a few 2^-30.
    np.testing.assert_allclose(out_scale, peak / 127, rtol=2.0**-20)


def test_codes_do_not_depend_on_epsilon():
    x, weight = random_row(30)
    np.testing.assert_array_equal(run(x, weight)[0], run(x, weight, epsilon=0.0)[0])


def test_zero_row_has_scale_one():
    codes, out_scale = run(np.zeros((1, 5), np.int64), np.ones(5, np.int16))
    assert codes.tolist() == [[0] * 5]
    assert out_scale.tolist() == [[1.0]]
