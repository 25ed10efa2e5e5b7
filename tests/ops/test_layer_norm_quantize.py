import math

import numpy as np
import pytest

from edgellm.ops._examples import norm_attributes
from edgellm.ops.layer_norm_quantize import UNIT_BITS, reference

FRAME = 18
WEIGHT_BITS = 12


def normalise(x, *, epsilon=0.0):
    """LayerNorm with weight 1 and bias 0 of integers in frame 18; y, codes and scales."""
    columns = x.shape[1]
    attributes = norm_attributes(epsilon * columns**3 * 4.0**FRAME, math.sqrt(columns))
    weight = np.full(columns, 2**WEIGHT_BITS, np.int16)
    bias = np.zeros(columns, np.int32)
    shift = UNIT_BITS + WEIGHT_BITS - FRAME
    return reference(x, weight, bias, **attributes, shift=shift, frame=FRAME)


@pytest.mark.parametrize("bits", [3, 10, 20, 30])
def test_result_is_near_float_layer_norm(bits):
    """Rounding to 2^-20 and to 2^-18, and rows of 22 bits, whose values reach 8 here: 2^-21 * 8."""
    rng = np.random.default_rng(bits)
    x = rng.integers(-(2**bits), 2**bits, (6, 200)).astype(np.int32)
    y, _, _ = normalise(x)
    real = x - x.mean(axis=1, keepdims=True)
    wanted = real / np.sqrt((real**2).mean(axis=1, keepdims=True))
    assert np.abs(y * 2.0**-FRAME - wanted).max() <= 2.0**-20 + 2.0**-18 + 8 * 2.0**-21


def test_the_vector_on_which_the_published_norm_fails():
    """I-LayerNorm takes 64 for the root of 10, so its values are 20 times too small."""
    y, _, _ = normalise(np.array([[3, -1, 0, 2]], np.int32))
    wanted = np.array([2, -2, -1, 1]) / math.sqrt(2.5)  # mean 1
    assert np.abs(y[0] * 2.0**-FRAME - wanted).max() <= 2.0**-17


def test_a_fraction_of_the_mean_is_not_lost():
    """The mean of 0 0 1 is a third: rounded to an integer, the row would come out as 0 0 1."""
    y, _, _ = normalise(np.array([[0, 0, 1]], np.int32))
    wanted = np.array([-1, -1, 2]) / math.sqrt(2)
    assert np.abs(y[0] * 2.0**-FRAME - wanted).max() <= 2.0**-17


def test_what_is_added_to_all_columns_changes_nothing():
    x = np.random.default_rng(0).integers(-1000, 1000, (2, 33)).astype(np.int32)
    for one, two in zip(normalise(x), normalise(x + np.int32(2**30)), strict=True):
        np.testing.assert_array_equal(one, two)


def test_epsilon_is_that_of_layer_norm():
    x = np.array([[2**10, -(2**10)]], np.int32)  # +-2^-8: a variance of 2^-16
    y, _, _ = normalise(x, epsilon=2.0**-16)
    assert np.abs(y[0] * 2.0**-FRAME - np.array([1, -1]) / math.sqrt(2)).max() <= 2.0**-17


def test_codes_times_scale_are_the_result():
    x = np.random.default_rng(1).integers(-(2**20), 2**20, (4, 90)).astype(np.int32)
    y, codes, scale = normalise(x)
    real = y * 2.0**-FRAME
    step = scale[:, :1] * 2.0 ** -scale[:, 1:].astype(float)
    assert (np.abs(codes).max(axis=1) == 127).all()
    assert (np.abs(codes * step - real) <= step * 0.5001).all()
