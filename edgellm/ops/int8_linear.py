"""Int8Linear: int8 activations times int8 weights, exact int32 accumulators."""

import numpy as np
import numpy.typing as npt

from edgellm.ops._integers import exact_matmul
from edgellm.ops._schema import OpSchema, Port

SCHEMA = OpSchema(
    name="Int8Linear",
    inputs=(Port("x", "int8", ("T", "K")), Port("weight", "int8", ("N", "K"))),
    outputs=(Port("acc", "int32", ("T", "N")),),
)


def reference(x: npt.NDArray[np.int8], weight: npt.NDArray[np.int8]) -> npt.NDArray[np.int32]:
    """Return ``x @ weight.T``; codes in [-127, 127], K <= 133,144 (127 * 127 * K fits in int32)."""
    return exact_matmul(x, weight.T).astype(np.int32)
