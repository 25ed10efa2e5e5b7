import math

import numpy as np
import pytest

from edgellm.ops import head_rms_norm
from edgellm.ops._examples import norm_attributes


@pytest.mark.parametrize("bits", [10, 16, 22, 30])
def test_output_is_near_float(bits):
    """Heads wider than 16 bits are rounded to 16: half a unit beside a peak of 2^15 or more is
    2^-16 of the peak, in x and by as much in the rms; the last rounding is half a unit of y."""
    rng = np.random.default_rng(bits)
    x = rng.integers(-(2**bits) + 1, 2**bits, (3, 2 * 80)).astype(np.int32)
    weight = rng.integers(2**11, 2**13, 80).astype(np.int16)
    gain = math.sqrt(80) * 2.0**-12 * 2.0**18
    y = head_rms_norm.reference(x, weight, frame=18, **norm_attributes(1e-6 * 80, gain))
    real = x.reshape(3, 2, 80) * 2.0**-18
    rms = np.sqrt((real * real).mean(axis=-1, keepdims=True) + 1e-6)
    wanted = (real * weight * 2.0**-12 / rms * 2**18).reshape(x.shape)
    rounding = 2.0**-15 if bits > 16 else 2.0**-28
    assert np.abs(y - wanted).max() <= 0.5 + rounding * 2 * np.abs(wanted).max()
