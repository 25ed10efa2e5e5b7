import numpy as np

from edgellm.ops.rotary_embedding import reference


def tables(positions, half):
    angles = np.arange(positions)[:, None] * 10_000.0 ** (-np.arange(half) / half)
    cos, sin = np.rint(np.cos(angles) * 2**14), np.rint(np.sin(angles) * 2**14)
    return angles, cos.astype(np.int16), sin.astype(np.int16)


def test_golden_vector():
    """Position 3, base 10,000, head dimension 4."""
    _, cos, sin = tables(4, 2)
    assert (cos[3].tolist(), sin[3].tolist()) == ([-16220, 16377], [2312, 491])
    y = reference(np.array([[100, -50, 20, 127]], np.int32), np.array([3]), cos, sin)
    assert y.tolist() == [[-102, -54, -6, 125]]


def test_output_is_near_float():
    """The tables are off by 2^-15 at most, for each of two terms; then one rounding."""
    angles, cos, sin = tables(500, 40)
    rng = np.random.default_rng(1)
    x = rng.integers(-(2**21), 2**21, (20, 3 * 80)).astype(np.int32)
    position = rng.integers(0, 500, 20)
    y = reference(x, position, cos, sin).reshape(20, 3, 2, 40)
    first, second = np.moveaxis(x.reshape(20, 3, 2, 40).astype(np.float64), 2, 0)
    c, s = np.cos(angles[position])[:, None], np.sin(angles[position])[:, None]
    limit = 0.5 + (np.abs(first) + np.abs(second)) * 2.0**-15 + 1e-6
    assert (np.abs(y[:, :, 0] - (first * c - second * s)) <= limit).all()
    assert (np.abs(y[:, :, 1] - (second * c + first * s)) <= limit).all()


def test_position_zero_changes_nothing():
    _, cos, sin = tables(1, 4)
    x = np.array([[1, -2, 3, -4, 2**31 - 1, -(2**31) + 1, 7, -8]], np.int32)
    np.testing.assert_array_equal(reference(x, np.array([0]), cos, sin), x)
