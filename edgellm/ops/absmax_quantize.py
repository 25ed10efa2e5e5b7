"""AbsmaxQuantize: per-token int8 codes of a row, with its scale as a dyadic pair."""

import numpy as np
import numpy.typing as npt

from edgellm.ops._integers import (
    RECIPROCAL_127,
    absmax_codes,
    bit_length,
    join_scale,
    normalize,
    product,
    round_shift,
    split_scale,
)
from edgellm.ops._schema import OpSchema, Port

SCHEMA = OpSchema(
    name="AbsmaxQuantize",
    inputs=(Port("x", "int64", ("T", "N")), Port("scale", "int32", ("R", "2"))),
    outputs=(Port("codes", "int8", ("T", "N")), Port("out_scale", "int32", ("T", "2"))),
)

ROW_BITS = 37
"""Rows are shifted to 37 bits: after rounding the peak may have 38, the most ``absmax_codes`` takes."""


def reference(
    x: npt.NDArray[np.int64], scale: npt.NDArray[np.int32]
) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.int32]]:
    """Quantise each row: ``codes = round(127 * x / max|x|)``, ``out_scale = max|x| * scale / 127``.

    Args:
        x: (T, N), |x| < 2^62; its real value is x * scale.
        scale: (T, 2), or (1, 2) for all rows.

    Returns:
        codes (T, N) in [-127, 127] and out_scale (T, 2). A zero row has zero codes and the scale 1.
    """
    peak = np.abs(x).max(axis=1, keepdims=True)
    shift = np.maximum(bit_length(peak) - ROW_BITS, 0)
    rows = round_shift(x, shift)
    peak = np.abs(rows).max(axis=1, keepdims=True)
    codes = absmax_codes(rows, peak).astype(np.int8)
    constant = (np.int64(RECIPROCAL_127[0]), np.int64(RECIPROCAL_127[1]))
    out = product(product(normalize(peak, -shift), split_scale(scale)), constant)
    return codes, join_scale(*out)
