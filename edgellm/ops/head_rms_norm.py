"""HeadRmsNorm: RMSNorm of each attention head, fixed point in and out (query/key norm of Qwen3)."""

import numpy as np
import numpy.typing as npt

from edgellm.ops._integers import INT32_MAX, bit_length, round_shift, saturate
from edgellm.ops._norms import norm_scale, row_sum_of_squares
from edgellm.ops._schema import OpSchema, Port

SCHEMA = OpSchema(
    name="HeadRmsNorm",
    inputs=(Port("x", "int32", ("T", "M")), Port("weight", "int16", ("D",))),
    outputs=(Port("y", "int32", ("T", "M")),),
    attributes=("frame", "epsilon_mantissa", "epsilon_exponent", "gain_mantissa", "gain_exponent"),
)

ROW_BITS = 16
"""Heads are shifted to 16 bits: x*weight <= 2^31 then, and its product with a mantissa <= 2^62."""


def reference(
    x: npt.NDArray[np.int32],
    weight: npt.NDArray[np.int16],
    *,
    frame: int,
    epsilon_mantissa: int,
    epsilon_exponent: int,
    gain_mantissa: int,
    gain_exponent: int,
) -> npt.NDArray[np.int32]:
    """Return ``x * weight / rms`` of each head, saturated to +-(2^31 - 1).

    Args:
        x: (T, M) with M a multiple of D; its real value is x * 2^-frame.
        weight: (D,) the norm weights in a fixed point of their own.
        frame: fixed point of x.
        epsilon_mantissa: with its exponent, ``eps * D`` as a dyadic scale.
        epsilon_exponent: see there.
        gain_mantissa: with its exponent, ``sqrt(D) * weight_unit * 2^(fixed point of y)``.
        gain_exponent: see there.
    """
    heads = x.astype(np.int64).reshape(-1, weight.shape[0])
    peak = np.abs(heads).max(axis=1, keepdims=True)
    shift = np.maximum(bit_length(peak) - ROW_BITS, 0)
    rows = round_shift(heads, shift)
    squares = row_sum_of_squares(rows)
    one = np.ones_like(peak)
    unit = (one << 30, one * (30 + frame))
    epsilon = (epsilon_mantissa, epsilon_exponent)
    gain = (gain_mantissa, gain_exponent)
    mantissa, exponent = norm_scale(one, squares, unit, shift, epsilon, gain)
    weighted = rows * weight.astype(np.int64)
    y = round_shift(weighted * mantissa, np.clip(exponent, 1, 62))
    return saturate(y, INT32_MAX).astype(np.int32).reshape(x.shape)
