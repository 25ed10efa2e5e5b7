"""The int8 quantiser of attention heads, shared by CacheAppend and Attention."""

import numpy as np

from edgellm.ops._integers import Int64, absmax_codes


def quantize_heads(heads: Int64) -> tuple[Int64, Int64]:
    """Return codes (..., D) = round(127 * x / max|x|) and max|x| (..., 1) of each head."""
    absmax = np.abs(heads).max(axis=-1, keepdims=True)
    return absmax_codes(heads, absmax), absmax
