"""How the key/value cache holds its codes: int8, or nibbles in the layout ``int4/v1``.

Kernels read nibbles as they lie where a token is alone. For many tokens, which read each row once
for all, rows are unpacked to int8 first.
"""

# mypy: disable-error-code="untyped-decorator,call-arg"
# An intrinsic is declared with the typing context as its first argument, and called without.

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from numba.extending import register_jitable

from edgellm.int4 import INT4_LIMIT
from edgellm.ops._attention import INT8_LIMIT
from edgellm.runtime.kernels._jit import PART_POLICY
from edgellm.runtime.kernels._scalar import Int
from edgellm.runtime.kernels.simd._unit import BLOCK, VectorUnit
from edgellm.runtime.kernels.vector._tiles import as_matrix

STEP = 16
"""Columns of a row that are unpacked at once."""
HALF = BLOCK // 2
NIBBLE_BIAS = 8

Rows = npt.NDArray[np.int8] | npt.NDArray[np.uint8]
Bytes = npt.NDArray[np.int8]


@dataclass(frozen=True)
class CacheCodes:
    """What a byte of the cache holds.

    Attributes:
        per_byte: codes in it; two are those of columns 32 apart.
        limit: the largest code.
    """

    per_byte: int
    limit: int

    @property
    def is_packed(self) -> bool:
        """Whether they are nibbles, each a code + 8."""
        return self.per_byte > 1

    @property
    def block_bytes(self) -> int:
        """Bytes of 64 columns."""
        return BLOCK // self.per_byte

    def bias(self, unit: VectorUnit) -> int:
        """Return what is added to a code where one token is multiplied."""
        return NIBBLE_BIAS if self.is_packed else unit.byte_bias


INT8 = CacheCodes(1, INT8_LIMIT)
INT4 = CacheCodes(2, INT4_LIMIT)


@register_jitable(**PART_POLICY)
def unpack(packed: Rows, column: Int, out: Bytes) -> None:
    """Write the codes of a row from a column on, a multiple of STEP, as int8."""
    for part in range(0, out.shape[0], STEP):
        at = column + part
        begin = at // BLOCK * HALF + at % HALF
        pairs, codes = packed[begin : begin + STEP], out[part : part + STEP]
        if at % BLOCK < HALF:
            for i in range(STEP):
                codes[i] = np.int8(pairs[i] & np.uint8(15)) - np.int8(NIBBLE_BIAS)
        else:
            for i in range(STEP):
                codes[i] = np.int8(pairs[i] >> np.uint8(4)) - np.int8(NIBBLE_BIAS)


def reader(codes: CacheCodes) -> Callable[..., tuple[Bytes, Int, Int]]:
    """Return ``read(cache, (first, count, column, width), scratch)``: where rows are as int8.

    They are ``count`` rows of one head, or as many as there are, and of them so many columns. What
    it returns are rows, which of them is the first, and which of their columns.
    """

    @register_jitable(**PART_POLICY)
    def as_they_are(
        cache: Bytes, place: tuple[Int, Int, Int, Int], scratch: Bytes
    ) -> tuple[Bytes, Int, Int]:
        return cache, place[0], place[2]

    @register_jitable(**PART_POLICY)
    def unpacked(
        cache: Rows, place: tuple[Int, Int, Int, Int], scratch: Bytes
    ) -> tuple[Bytes, Int, Int]:
        first, count, column, width = place
        rows: Bytes = as_matrix(scratch[: count * width], width)[
            : min(count, cache.shape[0] - first)
        ]
        for j in range(rows.shape[0]):
            unpack(cache[first + j], column, rows[j])
        return rows, np.int64(0), np.int64(0)

    return unpacked if codes.is_packed else as_they_are
