"""LogitsHead: int32 logits of the chosen rows, in one fixed point for the whole vocabulary."""

import numpy as np
import numpy.typing as npt

from edgellm.ops._integers import INT32_MAX, exact_matmul, requantize, saturate
from edgellm.ops._schema import OpSchema, Port

SCHEMA = OpSchema(
    name="LogitsHead",
    inputs=(
        Port("x", "int8", ("T", "K")),
        Port("scale", "int32", ("T", "2")),
        Port("weight", "int8", ("V", "K")),
        Port("multiplier", "int32", ("V",)),
        Port("rows", "int64", ("R",)),
    ),
    outputs=(Port("logits", "int32", ("R", "V")),),
    attributes=("shift",),
)


def reference(
    x: npt.NDArray[np.int8],
    scale: npt.NDArray[np.int32],
    weight: npt.NDArray[np.int8],
    multiplier: npt.NDArray[np.int32],
    rows: npt.NDArray[np.int64],
    *,
    shift: int,
) -> npt.NDArray[np.int32]:
    """Return the logits of x[rows].

    Args:
        x: (T, K) codes.
        scale: (T, 2).
        weight: (V, K) codes, a row for each token of the vocabulary.
        multiplier: (V,).
        rows: (R,) which rows of x to score, 0 <= row < T.
        shift: exponent that goes with the multiplier.
    """
    acc = exact_matmul(x[rows], weight.T)
    wide = requantize(acc, scale[rows], multiplier.astype(np.int64), shift)
    return saturate(wide, INT32_MAX).astype(np.int32)
