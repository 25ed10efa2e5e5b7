"""Requantize: int32 accumulators to a fixed-point int32, by token scale and channel multiplier."""

import numpy as np
import numpy.typing as npt

from edgellm.ops._integers import INT32_MAX, requantize, saturate
from edgellm.ops._schema import OpSchema, Port

SCHEMA = OpSchema(
    name="Requantize",
    inputs=(
        Port("acc", "int32", ("T", "N")),
        Port("scale", "int32", ("T", "2")),
        Port("multiplier", "int32", ("N",)),
    ),
    outputs=(Port("y", "int32", ("T", "N")),),
    attributes=("shift",),
)


def reference(
    acc: npt.NDArray[np.int32],
    scale: npt.NDArray[np.int32],
    multiplier: npt.NDArray[np.int32],
    *,
    shift: int,
) -> npt.NDArray[np.int32]:
    """Return ``acc * scale * multiplier * 2^-shift``, one rounding, saturated to +-(2^31 - 1)."""
    wide = requantize(acc.astype(np.int64), scale, multiplier.astype(np.int64), shift)
    return saturate(wide, INT32_MAX).astype(np.int32)
