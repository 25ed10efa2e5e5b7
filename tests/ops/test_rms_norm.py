import math

import numpy as np

from edgellm.ops._examples import norm_attributes
from edgellm.ops.rms_norm import reference


def test_the_result_is_near_float():
    """Rows keep 22 bits of their peak and the factor 24: half a step of each, and of the result."""
    rng = np.random.default_rng(1)
    columns = 96
    x = rng.normal(0, 3, (20, columns)) * rng.uniform(0.01, 100, (20, 1))
    weight = rng.integers(-(2**13), 2**13, columns, np.int16)
    gain = math.sqrt(columns) * 2.0**12
    scale = np.array([[2**30, 54]], np.int32)
    fixed = np.rint(x * 2.0**24).astype(np.int64)
    attributes = norm_attributes(1e-6 * columns, gain)
    y = reference(fixed, scale, weight, **attributes) * 2.0**-24

    root = np.sqrt((x**2).mean(axis=1, keepdims=True) + 1e-6)
    expected = x / root * weight * 2.0**-12
    peaks = np.abs(x / root).max(axis=1, keepdims=True)
    bound = 2.0**-21 * peaks * np.abs(weight) * 2.0**-12 + 2.0**-23 * np.abs(expected) + 2.0**-24
    assert (np.abs(y - expected) <= bound).all()
