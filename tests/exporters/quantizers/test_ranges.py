import numpy as np
import pytest

from edgellm.errors import ConfigError
from edgellm.exporters.quantizers.ranges import (
    CHOICES,
    check_choice,
    choose_limit,
    rounded,
    rounding_error,
)


@pytest.fixture
def values():
    """Normal numbers and one far outlier."""
    numbers = np.random.default_rng(0).normal(0, 1, 20_000)
    numbers[7] = 100.0
    return numbers


def test_minmax_keeps_the_largest_of_the_whole_calibration(values):
    assert choose_limit(values, 120.0, "minmax") == 120.0


def test_percentile_drops_the_outlier(values):
    assert 3 < choose_limit(values, 100.0, "percentile") < 6


def test_mse_has_the_least_error_of_its_candidates(values):
    limit = choose_limit(values, 100.0, "mse")
    errors = [rounding_error(values, 100.0 * share) for share in (1.0, 0.8, 0.5, 0.3)]
    assert rounding_error(values, limit) <= min(errors)


def test_mse_takes_another_error_if_there_is_one(values):
    limit = choose_limit(values, 100.0, "mse", lambda limit: abs(limit - 50))
    assert limit == pytest.approx(50, abs=1)


@pytest.mark.parametrize("choice", CHOICES)
def test_zeros_have_a_limit(choice):
    assert choose_limit(np.zeros(5), 0.0, choice) == 1.0


def test_what_is_clipped_becomes_the_limit():
    np.testing.assert_array_equal(rounded(np.array([-9.0, 0.26, 300.0]), 0.5), [-9, 0.5, 63.5])


def test_an_unknown_choice_is_refused():
    with pytest.raises(ConfigError, match="allowed are minmax, percentile, mse"):
        check_choice("best")
