"""I-ViT's operators: golden vectors of the published code, and where they are known to break.

The vectors were computed from the formulas of zkkli/I-ViT at 380ba991, PyTorch and TVM.
"""

import math

import numpy as np
import pytest

from edgellm.ops import dyadic_requantize, i_layer_norm, shift_gelu, shiftmax
from edgellm.ops._shift_exp import shift_exp, unit_of

UNIT = 16
"""A scale of 1/16."""


def softmax(x):
    odds = np.exp(x - x.max(axis=1, keepdims=True))
    return odds / odds.sum(axis=1, keepdims=True)


@pytest.mark.parametrize(
    ("half_bit", "expected"),
    [
        (1, [507904, 204800, 196608, 47104, 26]),
        (0, [491520, 196608, 196608, 45056, 26]),
    ],
)
def test_exponentials_are_those_published(half_bit, expected):
    x = np.array([-1, -16, -17, -40, -160])
    np.testing.assert_array_equal(shift_exp(x, UNIT, 15, half_bit), expected)


@pytest.mark.parametrize(
    ("bits", "expected"), [(16, [15704, 9815, 5889, 1349]), (8, [61, 38, 23, 5])]
)
def test_softmax_is_the_one_published(bits, expected):
    """A sum of 1093632 and so a factor of 1963, with the mantissa of the TVM code."""
    x = np.array([[0, -8, -16, -40]], np.int8)
    y = shiftmax.reference(x, unit=UNIT, n=15, bits=bits, half_bit=0)
    np.testing.assert_array_equal(y, [expected])


def test_layer_norm_is_the_one_published():
    """The first root is 291. The second is 64 where 3 is right: ten steps from 2^16 are too few."""
    x = np.array([[300, -100, 50, 150], [3, -1, 0, 2]], np.int32)
    y = i_layer_norm.reference(x, np.zeros(4, np.int32))
    np.testing.assert_array_equal(y[0], [737966800, -737966800, -184491700, 184491700])
    real = y[1] * math.sqrt(4) / 2**i_layer_norm.UNIT_BITS
    np.testing.assert_array_equal(np.round(real, 2), [0.06, -0.06, -0.03, 0.03])


@pytest.mark.parametrize(
    ("squares", "root"), [(85_000, 291), (10, 64), (2**17, 362), (2**31, 46_340), (0, 64)]
)
def test_ten_steps_find_these_roots(squares, root):
    assert i_layer_norm.newton_root(np.array([squares])) == root


def test_roots_are_right_from_2_17_on():
    squares = np.random.default_rng(0).integers(2**17, 2**32, 10_000)
    exact = np.array([math.isqrt(int(value)) for value in squares])
    assert np.abs(i_layer_norm.newton_root(squares) - exact).max() <= 1


def test_the_mean_is_rounded_half_to_even():
    total = np.array([1, 3, 5, -1, -3, 7])
    np.testing.assert_array_equal(i_layer_norm.round_half_even(total, 2), [0, 2, 2, 0, -2, 4])


def test_requantised_sums_are_those_of_the_golden_vector():
    """0.0037 as a dyadic number of 31 bits."""
    acc = np.array([[1000], [-1000], [20000], [-33784], [135]], np.int32)
    one, none = np.array([2034096511], np.int32), np.zeros(1, np.int64)
    codes = dyadic_requantize.reference(acc, one, none, shift=39, low=-127)
    np.testing.assert_array_equal(codes[:, 0], [4, -4, 74, -125, 0])


def test_ties_are_rounded_up():
    acc = np.array([[-6], [-2], [2], [6]], np.int32)
    one, none = np.array([1], np.int32), np.zeros(1, np.int64)
    codes = dyadic_requantize.reference(acc, one, none, shift=2, low=-127)
    np.testing.assert_array_equal(codes[:, 0], [-1, 0, 1, 2])


def test_relu_is_a_clamp():
    acc = np.array([[-900, 900]], np.int32)
    one, none = np.full(2, 2**30, np.int32), np.zeros(2, np.int64)
    codes = dyadic_requantize.reference(acc, one, none, shift=33, low=0)
    np.testing.assert_array_equal(codes, [[0, 113]])


def scores(deviation, columns):
    """int8 codes of random logits, with their scale."""
    real = np.random.default_rng(1).normal(0, deviation, (20, columns))
    scale = np.abs(real).max() / 127
    return np.rint(real / scale).astype(np.int8), scale


@pytest.mark.parametrize(
    ("variant", "columns", "lost"),
    [
        (shiftmax.PYTORCH, 197, (0.0, 0.01)),
        (shiftmax.PYTORCH, 4096, (0.05, 0.15)),  # about 11 %
        (shiftmax.TVM, 197, (0.5, 0.7)),  # about 60 %
        (shiftmax.TVM, 1024, (0.9, 1.0)),
    ],
)
def test_long_rows_lose_mass(variant, columns, lost):
    """What the docstring says of it."""
    codes, scale = scores(1.0, columns)
    y = shiftmax.reference(codes, unit=unit_of(scale), **variant)
    mass = y.sum(axis=1).mean() / 2 ** (variant["bits"] - 1)
    assert lost[0] <= 1 - mass <= lost[1]


def test_short_rows_are_near_the_softmax():
    """L1 distance of 0.028 at 197 columns."""
    codes, scale = scores(1.0, 197)
    y = shiftmax.reference(codes, unit=unit_of(scale), **shiftmax.PYTORCH) / 2**15
    assert np.abs(y - softmax(codes * scale)).sum(axis=1).mean() <= 0.03


def gelu(x):
    return np.array([0.5 * v * (1 + math.erf(v / math.sqrt(2))) for v in x.ravel()]).reshape(
        x.shape
    )


def gelu_error(real, limit):
    """What ShiftGELU is off by on rows of real numbers, as codes of a range of +-limit."""
    scale = limit / 127
    codes = np.rint(real / scale).clip(-127, 127).astype(np.int8)
    unit = unit_of(shift_gelu.SLOPE * scale)
    y = shift_gelu.reference(codes, unit=unit, **shift_gelu.PUBLISHED)
    return y * scale * 2.0**-7 - gelu(codes * scale)


@pytest.mark.parametrize(("limit", "rms"), [(4, 0.014), (8, 0.018)])
def test_gelu_is_near_where_it_works(limit, rms):
    """The figures of the docstring, measured on normal rows."""
    error = gelu_error(np.random.default_rng(2).normal(0, 1, (200, 384)), limit)
    assert math.sqrt((error**2).mean()) == pytest.approx(rms, abs=0.003)


def test_gelu_of_negative_elements_breaks_with_a_large_maximum():
    """From a row maximum of 9.4 on, the sigmoid of every negative element is about a half."""
    row = np.linspace(-16, 16, 255)[None]
    assert np.abs(gelu_error(row, 16)).max() >= 7


def test_gelu_of_a_negative_row_is_clamped():
    """The sum of the exponentials does not fit: -4 becomes -0.16 at a scale of 1/16."""
    error = gelu_error(np.full((1, 8), -4.0), 127 / 16)
    assert np.abs(error + 0.16).max() <= 0.01


def test_a_row_of_the_exponential_is_within_its_bound():
    """6.2 % for the line; the slope of 1.4375 adds up to 12 % near -15, and rounding of a unit."""
    unit = 4096
    x = np.arange(-254, 1)
    y = shift_exp(x, unit, 15, 1) / (unit * 2.0**15)
    assert np.abs(y / np.exp(x / unit) - 1).max() <= 0.065
