"""Properties of the shared integer arithmetic against exact rationals, and golden vectors."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgellm.ops import _integers as integers

mantissas = st.integers(2**30, 2**31 - 1)
exponents = st.integers(-100, 200)
scales = st.tuples(mantissas, exponents)


def nonnegative_below(bits):
    """Magnitudes of all sizes: as many small ones as large ones."""
    return st.integers(0, bits).flatmap(lambda width: st.integers(0, 2**width - 1))


def int64(*values):
    return np.array(values, np.int64)


def real(scale):
    return int(scale[0]) * Fraction(2) ** -int(scale[1])


def round_half_up(x):
    return math.floor(x + Fraction(1, 2))


@given(nonnegative_below(63))
def test_bit_length(x):
    assert integers.bit_length(int64(x)) == x.bit_length()


@given(nonnegative_below(62), st.booleans(), st.integers(0, 62))
def test_round_shift_is_round_half_up(magnitude, negative, shift):
    x = -magnitude if negative else magnitude
    assert integers.round_shift(int64(x), shift) == round_half_up(Fraction(x, 2**shift))


@pytest.mark.parametrize(
    ("x", "expected"), [(-6, -1), (-2, 0), (2, 1), (6, 2), (-1, 0), (1, 0), (3, 1), (-3, -1)]
)
def test_round_shift_ties_go_up(x, expected):
    assert integers.round_shift(int64(x), 2) == expected


@pytest.mark.parametrize(
    ("x", "code"), [(1000, 4), (-1000, -4), (20000, 74), (-33784, -125), (135, 0)]
)
def test_round_shift_requantises_golden_vectors(x, code):
    """The multiplier 0.0037 as 2034096511 * 2^-39."""
    assert integers.round_shift(int64(x) * 2034096511, 39) == code


def test_round_shift_rounds_once():
    """7984 * 1583594044 * 2^-40 is 11.4991; rounding in two steps makes 12 of it."""
    assert integers.round_shift(int64(7984) * 1583594044, 31 + 9) == 11


@given(nonnegative_below(62).filter(bool), exponents)
def test_normalize_is_within_half_a_unit(value, exponent):
    mantissa, shifted = integers.normalize(int64(value), exponent)
    assert 2**30 <= mantissa < 2**31
    wanted = value * Fraction(2) ** -exponent
    assert abs(real((mantissa[0], shifted[0])) - wanted) <= wanted * Fraction(1, 2**31)


def test_normalize_of_zero_is_zero():
    assert integers.normalize(int64(0), 5)[0] == 0


def test_normalize_carries_into_a_32nd_bit():
    mantissa, exponent = integers.normalize(int64(2**40 - 1), 0)
    assert (mantissa, exponent) == (2**30, -10)


@given(scales, scales)
def test_product_is_within_two_units(a, b):
    """Half a unit of 2^-30 when the product is rounded to 30 bits, half of 2^-31 never: it fits."""
    got = integers.product(
        (int64(a[0]), int64(a[1])),
        (int64(b[0]), int64(b[1])),
    )
    assert 2**30 <= got[0] < 2**31
    wanted = real(a) * real(b)
    assert abs(real((got[0][0], got[1][0])) - wanted) <= wanted * Fraction(1, 2**30)


@given(nonnegative_below(62).filter(bool))
def test_isqrt_is_the_floor_of_the_root(v):
    assert integers.isqrt(int64(v)) == math.isqrt(v)


@given(st.integers(2, 2**31 - 1), st.integers(-1, 1))
def test_isqrt_beside_squares(root, near):
    v = root * root + near
    assert integers.isqrt(int64(v)) == math.isqrt(v)


@given(nonnegative_below(38).filter(bool), st.data())
def test_absmax_codes_are_within_half_a_code(peak, data):
    """The reciprocal is off by 1/2 at most, so a code by peak/2 * 2^-shift < 2^-18 unrounded."""
    t = data.draw(st.integers(-peak, peak))
    code = int(integers.absmax_codes(int64(t), int64(peak))[0])
    assert abs(code - Fraction(127 * t, peak)) <= Fraction(1, 2) + Fraction(1, 2**18)
    assert integers.absmax_codes(int64(peak, -peak), int64(peak)).tolist() == [127, -127]


@pytest.mark.parametrize("peak", [2**25 + 1, 2**31 - 1, 3**20, 5**14, 7**12, 2**38 - 1])
def test_absmax_codes_beside_ties(peak):
    """2^-17 of a code beside the middle between two codes, the nearer one is chosen."""
    for code in range(127):
        middle = Fraction(2 * code + 1, 2)
        below = math.floor((middle - Fraction(1, 2**17)) * peak / 127)
        above = math.ceil((middle + Fraction(1, 2**17)) * peak / 127)
        codes = integers.absmax_codes(int64(below, above), int64(peak))
        assert codes.tolist() == [code, code + 1]


@pytest.mark.parametrize("bits", [5, 31, 61])
def test_isqrt_where_the_seed_is_farthest(bits):
    """Just above an odd power of two the seed is almost twice the root."""
    first = math.isqrt(2 ** (bits - 1)) + 1
    squares = np.arange(first, first + 300, dtype=np.int64) ** 2
    for v in (squares - 1, squares):
        assert integers.isqrt(v).tolist() == [math.isqrt(number) for number in v.tolist()]


def test_absmax_codes_of_the_golden_row():
    codes = integers.absmax_codes(int64(1234, -5678, 0, 42, 2839), int64(5678))
    # 127 * 2839 / 5678 is 63.5; its reciprocal was rounded down, so the tie is not seen as one.
    assert codes.tolist() == [28, -127, 0, 1, 63]


def test_absmax_codes_of_a_zero_row_are_zero():
    assert integers.absmax_codes(int64(0, 0), int64(0)).tolist() == [0, 0]


@given(
    st.integers(-(2**31) + 1, 2**31 - 1),
    scales,
    st.integers(0, 2**31 - 1),
    st.integers(1, 62),
)
def test_requantize_rounds_one_product(acc, scale, multiplier, total):
    """One rounding of acc * combined, where combined = scale * multiplier has 31 bits."""
    shift = total + 31 - scale[1]
    got = integers.requantize(
        int64(acc)[None], np.array([scale], np.int32), int64(multiplier), shift
    )
    combined = round_half_up(Fraction(scale[0] * multiplier, 2**31))
    assert got == round_half_up(Fraction(acc * combined, 2**total))


@pytest.mark.parametrize(("entries", "bits"), [(64, 15), (256, 20)])
def test_exp2_table_is_the_rounded_power(entries, bits):
    """float64 is exact enough to name the nearest integer: no entry is within 1e-6 of a tie."""
    exact = 2.0**bits * 2.0 ** (-(np.arange(entries) + 0.5) / entries)
    assert np.abs(np.abs(exact - np.floor(exact)) - 0.5).min() > 1e-6
    np.testing.assert_array_equal(integers.exp2_table(entries, bits), np.rint(exact))
