"""AddBias: add a bias of the same fixed point, saturating (query, key, value bias of Qwen2)."""

import numpy as np
import numpy.typing as npt

from edgellm.ops._integers import INT32_MAX, saturate
from edgellm.ops._schema import OpSchema, Port

SCHEMA = OpSchema(
    name="AddBias",
    inputs=(Port("x", "int32", ("T", "N")), Port("bias", "int32", ("N",))),
    outputs=(Port("y", "int32", ("T", "N")),),
)


def reference(x: npt.NDArray[np.int32], bias: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
    """Return ``x + bias`` saturated to +-(2^31 - 1)."""
    return saturate(x.astype(np.int64) + bias.astype(np.int64), INT32_MAX).astype(np.int32)
