import numpy as np

from edgellm.dtypes import pack_ternary
from edgellm.ops import bit_linear, squared_relu_gate
from edgellm.ops.gated_bit_linear import reference


def test_squared_relu_does_not_see_what_is_skipped():
    rng = np.random.default_rng(0)
    x = rng.integers(-127, 128, (4, 70)).astype(np.int8)
    packed = pack_ternary(rng.integers(-1, 2, (50, 70)).astype(np.int8))
    gate = rng.integers(-500, 500, (4, 50)).astype(np.int32)
    gate[:, ::7] = 0
    skipped, whole = reference(x, packed, gate), bit_linear.reference(x, packed)
    scale = np.full((4, 2), 2**30, np.int32)
    factor = {"multiplier_mantissa": 2**30, "multiplier_exponent": 30}

    assert (skipped != whole).any()
    assert (skipped[gate > 0] == whole[gate > 0]).all()
    for left, right in zip(
        squared_relu_gate.reference(gate, skipped, scale, **factor),
        squared_relu_gate.reference(gate, whole, scale, **factor),
        strict=True,
    ):
        np.testing.assert_array_equal(left, right, strict=True)
