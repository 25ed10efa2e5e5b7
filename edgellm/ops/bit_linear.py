"""BitLinear: int8 activations times ternary weights, exact int32 accumulators (BitNet b1.58)."""

import numpy as np
import numpy.typing as npt

from edgellm.dtypes import unpack_ternary
from edgellm.ops._integers import exact_matmul
from edgellm.ops._schema import OpSchema, Port

SCHEMA = OpSchema(
    name="BitLinear",
    inputs=(Port("x", "int8", ("T", "K")), Port("packed", "uint8", ("N", "B"))),
    outputs=(Port("acc", "int32", ("T", "N")),),
)


def reference(x: npt.NDArray[np.int8], packed: npt.NDArray[np.uint8]) -> npt.NDArray[np.int32]:
    """Return ``x @ W.T``; W is ``packed`` in the layout ``ternary-2bit/v1``.

    Args:
        x: (T, K), K <= 16,777,215 (127 * K fits in int32).
        packed: (N, B), B = packed_columns(K).
    """
    return exact_matmul(x, unpack_ternary(packed, x.shape[1]).T).astype(np.int32)
