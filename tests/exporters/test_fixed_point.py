from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgellm.errors import ExportError
from edgellm.exporters.fixed_point import (
    check_shift,
    dyadic,
    multipliers,
    norm_weight,
    requantizer,
)


@given(st.floats(min_value=1e-30, max_value=1e30))
def test_a_dyadic_has_a_31_bit_mantissa_and_half_a_unit_of_error(value):
    mantissa, exponent = dyadic(value)

    assert 2**30 <= mantissa < 2**31
    assert abs(Fraction(value) * Fraction(2) ** exponent - mantissa) <= Fraction(1, 2)


def test_a_fraction_that_rounds_up_moves_to_the_next_power():
    assert dyadic(1 - 2**-40) == (2**30, 30)
    assert dyadic(1.0) == (2**30, 30)
    assert dyadic(0.0) == (0, 0)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1.0])
def test_what_is_no_scale_is_refused(value):
    with pytest.raises(ExportError, match="is no scale"):
        dyadic(value)


def test_channels_share_the_shift_of_the_largest():
    found = multipliers(np.array([0.75, 0.375, 0.0, 2.0**-40]), "t")

    assert found.shift == 31
    assert found.values.tolist() == [1610612736, 805306368, 0, 0]


def test_zero_scales_and_impossible_shifts_name_the_tensor():
    with pytest.raises(ExportError, match="q_proj: all scales are zero"):
        multipliers(np.zeros(4), "q_proj")
    with pytest.raises(ExportError, match="q_proj: its scale needs a shift of 0 bits"):
        check_shift(0, "q_proj")


@given(st.lists(st.floats(-1e4, 1e4, width=32), min_size=1, max_size=8))
def test_norm_weights_use_15_bits(weights):
    weight = np.array(weights, np.float32)
    if not np.abs(weight).max() > 1e-30:
        with pytest.raises(ExportError, match="all norm weights are zero"):
            norm_weight(weight * 0, "norm")
        return
    values, bits = norm_weight(weight, "norm")

    assert 2**14 <= np.abs(values.astype(np.int32)).max() < 2**15
    assert np.abs(np.ldexp(weight.astype(np.float64), bits) - values).max() <= 0.5


def test_a_requantizer_multiplies_and_adds():
    factors, offsets = np.array([0.003, -0.0005, 0.0]), np.array([1.5, 0.0, -100.0])
    made = requantizer(factors, offsets, "x")
    acc = np.array([70_000, 123_456, 9])
    got = (acc * made.multiplier + made.offset) * 2.0**-made.shift
    # multipliers are off by half a step of 2^-shift, here 2^-39
    np.testing.assert_allclose(got, acc * factors + offsets, atol=123_456 * 2.0**-39)
    assert np.abs(made.multiplier).max() >= 2**30


def test_large_offsets_lower_the_shift():
    made = requantizer(np.array([1e-9]), np.array([2.0**20]), "x")
    assert made.shift == 39
    assert abs(int(made.offset[0])) <= 2**60


def test_a_requantizer_may_only_add():
    made = requantizer(np.zeros(2), np.array([3.0, 0.0]), "x")
    np.testing.assert_array_equal(np.ldexp(made.offset.astype(float), -made.shift), [3, 0])
