"""ResidualAdd: requantise accumulators to the residual stream and add them, int64."""

import numpy as np
import numpy.typing as npt

from edgellm.ops._integers import requantize, saturate
from edgellm.ops._schema import OpSchema, Port

SCHEMA = OpSchema(
    name="ResidualAdd",
    inputs=(
        Port("x", "int64", ("T", "N")),
        Port("acc", "int32", ("T", "N")),
        Port("scale", "int32", ("T", "2")),
        Port("multiplier", "int32", ("N",)),
    ),
    outputs=(Port("y", "int64", ("T", "N")),),
    attributes=("shift",),
)

TERM_LIMIT = 2**47
"""Each term is saturated here: 16,384 of them still fit below 2^61, and none comes near it in use."""


def reference(
    x: npt.NDArray[np.int64],
    acc: npt.NDArray[np.int32],
    scale: npt.NDArray[np.int32],
    multiplier: npt.NDArray[np.int32],
    *,
    shift: int,
) -> npt.NDArray[np.int64]:
    """Return ``x + acc * scale * multiplier * 2^-shift``; the term is rounded once and saturated."""
    term = requantize(acc.astype(np.int64), scale, multiplier.astype(np.int64), shift)
    return x + saturate(term, TERM_LIMIT)
