"""TritLinear: int8 activations times ternary weights in the layout ternary-5trit/v1."""

import numpy as np
import numpy.typing as npt

from edgellm.runtime.kernels._dot import dot_wide
from edgellm.runtime.kernels._jit import kernel
from edgellm.runtime.kernels._scalar import Int, share, stack_int16

BLOCK = 64
"""Bytes of a block, with 320 columns."""
TILE_BYTES = 20 * BLOCK
TILE = 5 * TILE_BYTES
"""Columns that are unpacked at once: 6400 int16 stay in a level-1 cache."""


def low_pair(byte: np.int16) -> np.int16:
    """Return the first two codes of a byte as c0 + 3 * c1."""
    if byte < 192:
        return byte & 7
    return np.int16(8 if byte >= 240 or byte & 8 else byte & 7)


def high_pair(byte: np.int16) -> np.int16:
    """Return the third and fourth code of a byte as c2 + 3 * c3."""
    if byte < 192:
        return byte >> 3 & 7
    return np.int16(byte & 7 if byte < 240 and byte & 8 else 8)


def last_code(byte: np.int16) -> np.int16:
    """Return the fifth code of a byte."""
    if byte < 192:
        return byte >> 6
    return byte & 3 if byte >= 240 else byte >> 4 & 3


def unpack_block(packed: npt.NDArray[np.uint8], weights: npt.NDArray[np.int16]) -> None:
    """Write the ternary weights of a block in the order of their columns."""
    size = packed.shape[0]
    for b in range(size):
        byte = np.int16(packed[b])
        low, high = low_pair(byte), high_pair(byte)
        weights[b] = low % 3 - 1
        weights[size + b] = low // 3 - 1
        weights[2 * size + b] = high % 3 - 1
        weights[3 * size + b] = high // 3 - 1
        weights[4 * size + b] = last_code(byte) - 1


def multiply_row(
    x: npt.NDArray[np.int8],  # (T, K)
    packed: npt.NDArray[np.uint8],  # (N, B)
    n: Int,
    weights: npt.NDArray[np.int16],
    acc: npt.NDArray[np.int32],  # (T, N)
) -> None:
    """Multiply all tokens with row n, which is unpacked once."""
    for first in range(0, packed.shape[1], TILE_BYTES):
        stop = min(first + TILE_BYTES, packed.shape[1])
        for place in range(first, stop, BLOCK):
            block = packed[n][place : min(place + BLOCK, stop)]
            unpack_block(block, weights[5 * (place - first) :])
        for t in range(x.shape[0]):
            part = dot_wide(x[t][5 * first : 5 * stop], weights)
            acc[t, n] = part if first == 0 else acc[t, n] + part


@kernel("TritLinear", split="columns")
def trit_linear(
    thread: int,
    threads: int,
    x: npt.NDArray[np.int8],  # (T, K)
    packed: npt.NDArray[np.uint8],  # (N, B)
    acc: npt.NDArray[np.int32],  # (T, N)
) -> None:
    """Split by output features; each row of weights is unpacked once for all tokens."""
    begin, end = share(packed.shape[0], thread, threads)
    weights = stack_int16(TILE)
    for n in range(begin, end):
        multiply_row(x, packed, n, weights, acc)
