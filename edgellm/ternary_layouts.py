"""The layouts that a product with ternary weights may have them in: each has an operator."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgellm.dtypes import (
    TERNARY_2BIT,
    TERNARY_5TRIT,
    damaged_ternary,
    damaged_trits,
    pack_ternary,
    pack_trits,
    packed_columns,
    trit_bytes,
    unpack_ternary,
    unpack_trits,
)
from edgellm.ternary_planes import (
    ROWS,
    TERNARY_PLANES,
    pack_ternary_planes,
    ternary_planes_shape,
    unpack_ternary_planes,
)

Packed = npt.NDArray[np.uint8]
Codes = npt.NDArray[np.int8]


@dataclass(frozen=True)
class TernaryLayout:
    """A layout of ternary weights whose blocks of rows are packed one by one.

    Attributes:
        name: its versioned id.
        alias: what a user calls it.
        op_type: the operator that multiplies with it.
        gated_op_type: the one that skips rows whose gate is closed; "" if none does.
        block_rows: rows that are packed together; a matrix has whole blocks.
        shape: (N, K) -> the shape of the bytes; the first dimension counts blocks.
        pack: (N, K) weights -> bytes of that shape.
        unpack: (bytes, K) -> weights.
        damaged: bytes -> which of them stand for nothing.
    """

    name: str
    alias: str
    op_type: str
    gated_op_type: str
    block_rows: int
    shape: Callable[[int, int], tuple[int, ...]]
    pack: Callable[[Codes], Packed]
    unpack: Callable[[Packed, int], Codes]
    damaged: Callable[[Packed], npt.NDArray[np.bool_]]

    def operator(self, *, gated: bool) -> str:
        """Return the operator that multiplies, with a gate or without; "" if there is none."""
        return self.gated_op_type if gated else self.op_type

    def fits(self, rows: int) -> bool:
        """Tell whether a matrix of so many rows has whole blocks."""
        return rows % self.block_rows == 0

    def size_bytes(self, rows: int, columns: int) -> int:
        """Return the bytes that a matrix takes."""
        return math.prod(self.shape(rows, columns))


TERNARY_LAYOUTS = {
    layout.name: layout
    for layout in (
        TernaryLayout(
            name=TERNARY_2BIT,
            alias="2bit",
            op_type="BitLinear",
            gated_op_type="GatedBitLinear",
            block_rows=1,
            shape=lambda rows, columns: (rows, packed_columns(columns)),
            pack=pack_ternary,
            unpack=unpack_ternary,
            damaged=damaged_ternary,
        ),
        TernaryLayout(
            name=TERNARY_5TRIT,
            alias="5trit",
            op_type="TritLinear",
            gated_op_type="GatedTritLinear",
            block_rows=1,
            shape=lambda rows, columns: (rows, trit_bytes(columns)),
            pack=pack_trits,
            unpack=unpack_trits,
            damaged=damaged_trits,
        ),
        TernaryLayout(
            name=TERNARY_PLANES,
            alias="lookup",
            op_type="LookUpBitLinear",
            gated_op_type="",
            block_rows=ROWS,
            shape=ternary_planes_shape,
            pack=pack_ternary_planes,
            unpack=unpack_ternary_planes,
            damaged=lambda packed: np.zeros(packed.shape, np.bool_),
        ),
    )
}
"""By name."""
GATED_OPERATORS = tuple(
    layout.gated_op_type for layout in TERNARY_LAYOUTS.values() if layout.gated_op_type
)
"""Those with a gate, their third input."""
LAYOUT_OF = {
    op_type: layout
    for layout in TERNARY_LAYOUTS.values()
    for op_type in (layout.op_type, layout.gated_op_type)
    if op_type
}
"""The layout of the weights of an operator, its second input."""
