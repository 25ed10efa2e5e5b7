"""CacheAppend: quantise new keys or values, one int8 row a head, and append them to the cache."""

import numpy as np
import numpy.typing as npt

from edgellm.ops._heads import quantize_heads
from edgellm.ops._schema import OpSchema, Port

SCHEMA = OpSchema(
    name="CacheAppend",
    inputs=(
        Port("x", "int32", ("T", "M")),
        Port("past", "int8", ("S", "H", "D")),
        Port("past_absmax", "int32", ("S", "H")),
    ),
    outputs=(
        Port("present", "int8", ("S+T", "H", "D")),
        Port("present_absmax", "int32", ("S+T", "H")),
    ),
)


def reference(
    x: npt.NDArray[np.int32],
    past: npt.NDArray[np.int8],
    past_absmax: npt.NDArray[np.int32],
) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.int32]]:
    """Append ``round(127 * x / max|x|)`` of each head, and the max.

    The scale of a row is its absmax, an integer in the fixed point of x: so all keys of a head are in
    one unit, and no calibration is needed.

    Args:
        x: (T, M), M = H * D, |x| <= 2^31 - 1.
        past: (S, H, D) codes.
        past_absmax: (S, H).
    """
    heads = x.reshape(x.shape[0], past.shape[1], past.shape[2])
    codes, absmax = quantize_heads(heads.astype(np.int64))
    present = np.concatenate([past, codes.astype(np.int8)])
    return present, np.concatenate([past_absmax, absmax[..., 0].astype(np.int32)])
