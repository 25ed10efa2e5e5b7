"""Divisions by reciprocal in kernels: the same integers as a division, everywhere."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from edgellm.runtime.kernels._attention import write_mean

LARGEST_WEIGHT = 32_591
MOST_WEIGHTS = 65_535 * LARGEST_WEIGHT


@given(st.integers(1, MOST_WEIGHTS), st.integers(0, 20), st.randoms(use_true_random=False))
def test_mean_of_values(weights: int, drop: int, random) -> None:
    """Totals at the limits, near the points where rounding turns, and anywhere."""
    divisor = 127 * weights
    turns = [(2 * random.randrange(-(2**20), 2**20) + 1) * divisor // 2**21 for _ in range(20)]
    totals = [turn + near for turn in turns for near in (-1, 0, 1)]
    totals += [random.randint(-divisor, divisor) for _ in range(20)] + [divisor, -divisor, 0]
    totals = [max(min(total, divisor), -divisor) for total in totals]
    y = np.zeros(len(totals), np.int64)

    write_mean(np.array(totals), divisor, drop, y)

    exact = [((total << 20) + (divisor >> 1)) // divisor << drop for total in totals]
    assert y.tolist() == exact
