import numpy as np
import pytest

from edgellm.ops.absmax_quantize import reference


@pytest.mark.parametrize("bits", [3, 20, 37, 45, 62])
def test_codes_and_scale_are_near_float(bits):
    """Rows wider than 37 bits are rounded, by 2^-37 of the peak; the reciprocal adds 2^-18."""
    rng = np.random.default_rng(bits)
    x = rng.integers(-(2**bits) + 1, 2**bits, (4, 65))
    codes, out = reference(x, np.array([[1_500_000_000, 60]], np.int32))
    peak = np.abs(x).max(axis=1, keepdims=True).astype(np.float64)
    assert np.abs(codes - 127 * (x / peak)).max() <= 0.5 + 2.0**-17
    # Mantissas of 31 bits: five roundings of half of 2^-30.
    wanted = peak * 1_500_000_000 * 2.0**-60 / 127
    np.testing.assert_allclose(out[:, :1] * 2.0 ** -out[:, 1:].astype(float), wanted, rtol=2.5e-9)


def test_zero_row_has_scale_one():
    codes, out = reference(np.zeros((1, 3), np.int64), np.array([[2**31 - 1, 10]], np.int32))
    assert codes.tolist() == [[0, 0, 0]]
    assert out.tolist() == [[2**30, 30]]
