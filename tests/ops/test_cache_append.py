import numpy as np

from edgellm.ops.cache_append import reference


def test_appended_rows_are_within_half_a_code():
    """Half a step of max|x| / 127, and the reciprocal's 2^-18 of one."""
    rng = np.random.default_rng(1)
    x = np.rint(rng.standard_normal((4, 3 * 8)) * 2**18).astype(np.int32)
    past, past_absmax = np.full((2, 3, 8), 5, np.int8), np.full((2, 3), 9, np.int32)
    present, absmax = reference(x, past, past_absmax)
    np.testing.assert_array_equal(present[:2], past)
    np.testing.assert_array_equal(absmax[:2], past_absmax)
    step = absmax[2:, :, None] / 127
    error = np.abs(present[2:] * step - x.reshape(4, 3, 8))
    assert (error <= step * (0.5 + 2.0**-18)).all()


def test_rows_do_not_depend_on_how_they_are_cut():
    rng = np.random.default_rng(2)
    x = rng.integers(-(2**20), 2**20, (5, 16)).astype(np.int32)
    empty = np.zeros((0, 2, 8), np.int8), np.zeros((0, 2), np.int32)
    together = reference(x, *empty)
    first = reference(x[:2], *empty)
    for a, b in zip(together, reference(x[2:], *first), strict=True):
        np.testing.assert_array_equal(a, b)
