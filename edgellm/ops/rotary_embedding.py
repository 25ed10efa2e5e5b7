"""RotaryEmbedding: rotate the halves of each head by the position (Hugging Face half-rotation)."""

import numpy as np
import numpy.typing as npt

from edgellm.ops._integers import INT32_MAX, round_shift, saturate
from edgellm.ops._schema import OpSchema, Port

SCHEMA = OpSchema(
    name="RotaryEmbedding",
    inputs=(
        Port("x", "int32", ("T", "M")),
        Port("position_ids", "int64", ("T",)),
        Port("cos", "int16", ("C", "P")),
        Port("sin", "int16", ("C", "P")),
    ),
    outputs=(Port("y", "int32", ("T", "M")),),
)

TABLE_BITS = 14
"""cos and sin are Q14: Q15 could not hold cos 0 = 1."""


def reference(
    x: npt.NDArray[np.int32],
    position_ids: npt.NDArray[np.int64],
    cos: npt.NDArray[np.int16],
    sin: npt.NDArray[np.int16],
) -> npt.NDArray[np.int32]:
    """Return ``(x1*cos - x2*sin, x2*cos + x1*sin)``, one rounding after the sum, saturated.

    Args:
        x: (T, M), M a multiple of the head dimension 2 * P; x1 is the first half of a head.
        position_ids: (T,) rows of the tables, 0 <= position < C.
        cos: (C, P) Q14.
        sin: (C, P) Q14.
    """
    half = cos.shape[1]
    heads = x.astype(np.int64).reshape(x.shape[0], -1, 2, half)
    first, second = heads[:, :, 0], heads[:, :, 1]
    c = cos[position_ids].astype(np.int64)[:, None]
    s = sin[position_ids].astype(np.int64)[:, None]
    turned = np.stack([first * c - second * s, second * c + first * s], axis=2)
    return saturate(round_shift(turned, TABLE_BITS), INT32_MAX).astype(np.int32).reshape(x.shape)
