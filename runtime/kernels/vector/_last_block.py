"""The columns behind the last whole block of a row, as tiles and panels take them."""

import numpy as np
import numpy.typing as npt

from edgellm.runtime.kernels.simd._unit import BLOCK

Codes = npt.NDArray[np.int8]


def lay_out_rest(x: Codes, rest: Codes, groups: int, size: int) -> None:
    """Lay out the columns of x behind the last whole block, as tiles take them.

    That is, for each group of the block: zeros, then ``size`` columns of x, which ends in zeros.
    """
    block = groups * BLOCK
    whole = x.shape[1] // block * block
    for t in range(x.shape[0]):
        for g in range(groups):
            for b in range(BLOCK):
                k = whole + g * size + b - (BLOCK - size)
                inside = b >= BLOCK - size and k < x.shape[1]
                rest[t, g * BLOCK + b] = x[t, k] if inside else np.int8(0)
