"""What operators on weights in the layout ``int8-planes/v1`` share: norms, bodies, examples."""

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from edgellm.dtypes import PLANES, PLANES_BLOCK
from edgellm.ops._integers import isqrt
from edgellm.ops._schema import Dim
from edgellm.ops._use import Demands, Use, at_most, divides

if TYPE_CHECKING:
    from edgellm.ops._body import Value


MAX_COLUMNS = 32_768


def planes_fit(use: Use, columns: Dim) -> Demands:
    """Demand planes of as many columns as the codes have, in whole blocks."""
    high, low = use.sizes["H"], use.sizes["B"]
    fits = isinstance(high, int) and isinstance(low, int) and columns == 2 * high == 8 * low
    return [
        (at_most(columns, MAX_COLUMNS), f"at most {MAX_COLUMNS} columns"),
        (divides(PLANES_BLOCK, columns), f"its columns are a multiple of {PLANES_BLOCK}"),
        (fits, "its planes have as many columns as the codes"),
        (isinstance(use.sizes["V"], int), "its table has a fixed size"),
    ]


def residual_norms(weight: npt.NDArray[np.int8]) -> npt.NDArray[np.int16]:
    """Return how far each row can be from its first planes, for a bound of its products.

    With m bits of a weight unread, twice the weight is the middle of what it can be plus an odd
    number r, |r| < 2^m. The product of a row's r with x is at most their norms' product
    (Cauchy-Schwarz), so norms are rounded up.

    Args:
        weight: (N, K) int8, K <= 32,768.

    Returns:
        (4, N) int16: the norms of r for m = 4, 3, 2, 1.
    """
    bytes_ = weight.view(np.uint8) ^ np.uint8(128)
    norms = []
    for unread in range(PLANES, 0, -1):
        top = (1 << unread) - 1
        values = np.arange(256, dtype=np.uint8) & np.uint8(top)
        # (2 * low - top)^2 of each byte: at most 225, and 225 * 32,768 fits in 23 bits
        squares = ((2 * values.astype(np.int32) - top) ** 2).astype(np.int32)
        total = squares[bytes_].sum(axis=1, dtype=np.int64)
        root = isqrt(total)  # r is odd: the sum is at least 1
        norms.append(root + (root * root < total))
    return np.stack(norms).astype(np.int16)


def recombine(high: "Value", low: "Value", rows: "Value") -> "Value":
    """Return int8 weights + 128 as uint8, (rows, K), in standard ONNX operators.

    Args:
        high: (rows, K / 2) uint8.
        low: (4, rows, K / 8) uint8.
        rows: int64 (1,), their number.
    """
    body = high.body
    blocks = high.reshape(rows, -1, 1, PLANES_BLOCK // 2)
    nibbles = body.concat([(blocks & 15).shift_left(4), blocks & 240], axis=2).reshape(rows, -1)
    places = body.constant(np.arange(8).reshape(1, 1, 8, 1), "uint8")
    result = nibbles
    for plane in range(PLANES):
        packed = low.take(plane).reshape(rows, -1, 1, 8)
        bits = (packed.shift_right(places) & 1).reshape(rows, -1)
        result = result | bits.shift_left(PLANES - 1 - plane)
    return result
