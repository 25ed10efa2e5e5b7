"""RMSNorm fused with the per-token absmax quantiser (arithmetic: the codes do not depend on the RMS).

``codes = round(127 * x*weight / max|x*weight|)``; the root of the mean square is needed for the
scale of the token alone, once a row. Source: BitNet b1.58 quantisers (transformers
``integrations/bitnet.py``), RMSNorm as in Llama; headroom in the comments.
"""

import numpy as np
import numpy.typing as npt

from edgellm.ops._integers import absmax_codes, bit_length, join_scale, round_shift, split_scale
from edgellm.ops._norms import norm_scale, row_sum_of_squares
from edgellm.ops._schema import OpSchema, Port

SCHEMA = OpSchema(
    name="RmsNormQuantize",
    inputs=(
        Port("x", "int64", ("T", "N")),
        Port("scale", "int32", ("R", "2")),
        Port("weight", "int16", ("N",)),
    ),
    outputs=(Port("codes", "int8", ("T", "N")), Port("out_scale", "int32", ("T", "2"))),
    attributes=("epsilon_mantissa", "epsilon_exponent", "gain_mantissa", "gain_exponent"),
)

ROW_BITS = 22
"""Rows are shifted to 22 bits: x*weight < 2^37 then, as ``absmax_codes`` asks, and the sum of squares
of 65,536 columns stays below 2^60."""


def reference(
    x: npt.NDArray[np.int64],
    scale: npt.NDArray[np.int32],
    weight: npt.NDArray[np.int16],
    *,
    epsilon_mantissa: int,
    epsilon_exponent: int,
    gain_mantissa: int,
    gain_exponent: int,
) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.int32]]:
    """Normalise and quantise each row.

    Args:
        x: (T, N), |x| < 2^62, N <= 65,536; its real value is x * scale.
        scale: (T, 2), or (1, 2) for all rows.
        weight: (N,) the norm weights in a fixed point of their own.
        epsilon_mantissa: with its exponent, ``eps * N`` as a dyadic scale (mantissa 0: no eps).
        epsilon_exponent: see there.
        gain_mantissa: with its exponent, ``sqrt(N) * weight_unit / 127``.
        gain_exponent: see there.

    Returns:
        codes (T, N) in [-127, 127], and the scale of each row (T, 2): real = codes * out_scale.
    """
    peak = np.abs(x).max(axis=1, keepdims=True)
    shift = np.maximum(bit_length(peak) - ROW_BITS, 0)
    rows = round_shift(x, shift)
    weighted = rows * weight.astype(np.int64)
    peak = np.abs(weighted).max(axis=1, keepdims=True)
    codes = absmax_codes(weighted, peak).astype(np.int8)
    squares = row_sum_of_squares(rows)
    epsilon = (epsilon_mantissa, epsilon_exponent)
    gain = (gain_mantissa, gain_exponent)
    out = norm_scale(peak, squares, split_scale(scale), shift, epsilon, gain)
    return codes, join_scale(*out)
