"""Heads of attention: rows cut into them, and their quantiser; shared by its operators."""

import numpy as np
import numpy.typing as npt

from edgellm.ops._integers import Int64, absmax_codes


def quantize_heads(heads: Int64, limit: int = 127) -> tuple[Int64, Int64]:
    """Return codes (..., D) = round(limit * x / max|x|) and max|x| (..., 1) of each head."""
    absmax = np.abs(heads).max(axis=-1, keepdims=True)
    return absmax_codes(heads, absmax, limit), absmax


def heads_of(rows: npt.NDArray[np.integer], heads: int) -> Int64:
    """Return (L, H * D) as (H, L, D)."""
    return rows.astype(np.int64).reshape(rows.shape[0], heads, -1).transpose(1, 0, 2)
