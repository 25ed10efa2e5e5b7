"""Products of int8 where bytes are multiplied as words, of many tokens: see ``_word_panels``.

Activations are widened once for all rows of weights, these once for all tokens.
"""

# mypy: disable-error-code="untyped-decorator,call-arg"
# An intrinsic is declared with the typing context as its first argument, and called without.

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from numba.extending import register_jitable

from edgellm.runtime.kernels._jit import PART_POLICY
from edgellm.runtime.kernels._scalar import stack_int8, stack_int16
from edgellm.runtime.kernels.simd._unit import VectorUnit
from edgellm.runtime.kernels.vector._tiles import as_matrix
from edgellm.runtime.kernels.vector._wide_tiles import widening
from edgellm.runtime.kernels.vector._word_panels import (
    COLUMNS,
    PAIR,
    STEP_BYTES,
    TOGETHER,
    pair_tile,
    row_filler,
)

LEAST_TOKENS = 16
"""From so many tokens on, this is faster than tiles of rows as they are stored: 0.9 to 1.03 of
their time on Zen 3, for 32 tokens 0.9, for 197 0.73 to 0.87; 12 take 0.95 to 1.08 times as long."""
SPAN = 2048
"""Columns of a panel. Sums are read and written for each span: with 512 columns a product of 128 x
2560 x 6912 takes 7 % longer, with 1024 5 %."""
PANEL_BYTES = SPAN // PAIR * STEP_BYTES

Codes = npt.NDArray[np.int8]
Words = npt.NDArray[np.int16]
Sums = npt.NDArray[np.int32]


def word_add(unit: VectorUnit, most: int) -> Callable[[Codes, Codes, Sums], None]:
    """Return ``add(x, weight, acc)`` for up to ``most`` tokens: add the product.

    Columns are whole blocks, rows of weights multiples of COLUMNS.
    """
    widen, fill, room_size = widening(unit), row_filler(unit), most * SPAN
    several, one = pair_tile(unit, TOGETHER, adds=True), pair_tile(unit, 1, adds=True)

    @register_jitable(**PART_POLICY)
    def add(x: Codes, weight: Codes, acc: Sums) -> None:
        panel, room = stack_int8(PANEL_BYTES), stack_int16(room_size)
        grouped = x.shape[0] // TOGETHER * TOGETHER
        for k in range(0, x.shape[1], SPAN):
            count = min(SPAN, x.shape[1] - k)
            words: Words = as_matrix(room[: x.shape[0] * count], count)
            for t in range(x.shape[0]):
                widen(x, t, k, count, words[t])
            for n in range(0, weight.shape[0], COLUMNS):
                fill(weight[:, k : k + count], panel, n)
                for t in range(0, grouped, TOGETHER):
                    several(words, panel, acc, (t, 0, count // PAIR, n))
                for t in range(grouped, x.shape[0]):
                    one(words, panel, acc, (t, 0, count // PAIR, n))

    return add
