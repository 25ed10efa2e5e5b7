"""Int4LogitsHead on a vector unit: few tokens by tiles, many on weights unpacked slab by slab."""

# mypy: disable-error-code="untyped-decorator"

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from numba.extending import register_jitable

from edgellm.runtime.kernels._int4 import unpack_row
from edgellm.runtime.kernels._jit import PART_POLICY
from edgellm.runtime.kernels._scalar import share, stack_int8
from edgellm.runtime.kernels.simd._unit import VectorUnit
from edgellm.runtime.kernels.vector._logits import MultiplyRows, of_rows, scale_sums
from edgellm.runtime.kernels.vector._planes import nibbles
from edgellm.runtime.kernels.vector._products import Codes, int8_product, of_whole_blocks, total
from edgellm.runtime.kernels.vector._tiles import as_matrix

SLAB_BYTES = 1 << 17
"""Weights that are unpacked at once for many tokens; they stay in the level-2 cache."""
SLAB_ROWS = 32
"""A multiple of the rows of any panel."""
MAX_TILED_ROWS = 8
"""More tokens than that are multiplied with unpacked weights."""
OFFSET = 8
"""What is added to a weight in ``int4/v1``."""

Packed = npt.NDArray[np.uint8]
Sums = npt.NDArray[np.int32]


def multiply_unpacked(multiply: MultiplyRows) -> Callable[..., None]:
    """Return ``product(x, weight, acc, rows)``, which unpacks a slab of rows at a time."""

    @register_jitable(**PART_POLICY)
    def product(x: Codes, weight: Packed, acc: Sums, rows: npt.NDArray[np.int64]) -> None:
        slab: Codes = as_matrix(stack_int8(SLAB_BYTES), x.shape[1])
        step = slab.shape[0]
        if step > SLAB_ROWS:
            step = step // SLAB_ROWS * SLAB_ROWS
        for n in range(0, weight.shape[0], step):
            end = min(n + step, weight.shape[0])
            for v in range(n, end):
                unpack_row(weight[v], slab[v - n])
            multiply(x, slab[: end - n], acc[:, n:end], rows)

    return product


def build(unit: VectorUnit) -> Callable[..., None]:
    """Return the kernel."""
    add_nibbles = of_rows(of_whole_blocks(nibbles(unit), unit.tokens))
    multiply_many = multiply_unpacked(of_rows(int8_product(unit)))

    def int4_logits_head(
        thread: int,
        threads: int,
        x: npt.NDArray[np.int8],  # (T, K)
        scale: npt.NDArray[np.int32],  # (T, 2)
        weight: npt.NDArray[np.uint8],  # (V, K / 2)
        multiplier: npt.NDArray[np.int32],  # (V,)
        rows: npt.NDArray[np.int64],  # (R,)
        logits: npt.NDArray[np.int32],  # (R, V)
        shift: int,
    ) -> None:
        begin, end = share(weight.shape[0], thread, threads)
        part, out = weight[begin:end], logits[:, begin:end]
        if rows.shape[0] > MAX_TILED_ROWS:
            multiply_many(x, part, out, rows)
        else:
            for r in range(rows.shape[0]):
                out[r, :] = -OFFSET * total(x[rows[r]])
            add_nibbles(x, part, out, rows)
        scale_sums(out, scale, multiplier[begin:end], rows, shift)

    return int4_logits_head
