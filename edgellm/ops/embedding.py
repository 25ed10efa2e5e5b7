"""Embedding: rows of an int8 table, each with its own scale, widened to the residual stream."""

import numpy as np
import numpy.typing as npt

from edgellm.ops._integers import round_shift
from edgellm.ops._schema import OpSchema, Port

SCHEMA = OpSchema(
    name="Embedding",
    inputs=(
        Port("ids", "int64", ("T",)),
        Port("table", "int8", ("V", "N")),
        Port("multiplier", "int32", ("V",)),
    ),
    outputs=(Port("hidden", "int64", ("T", "N")),),
    attributes=("shift",),
)


def reference(
    ids: npt.NDArray[np.int64],
    table: npt.NDArray[np.int8],
    multiplier: npt.NDArray[np.int32],
    *,
    shift: int,
) -> npt.NDArray[np.int64]:
    """Return ``(table[id] * multiplier[id] + half) >> shift``; 1 <= shift <= 62."""
    return round_shift(
        table[ids].astype(np.int64) * multiplier[ids].astype(np.int64)[:, None], shift
    )
