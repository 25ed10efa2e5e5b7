"""ColumnBitLinear: ternary weights by input, of which those of zero activations are not read."""

import numpy as np
import numpy.typing as npt

from edgellm.runtime.kernels._jit import kernel
from edgellm.runtime.kernels._scalar import Int, share

BLOCK_BYTES = 16
"""Bytes that hold the weights of one input for 64 outputs."""


def add_input(
    packed: npt.NDArray[np.uint8], activation: np.int32, acc: npt.NDArray[np.int32]
) -> None:
    """Add to 64 outputs a block their ``weight * activation``."""
    for block in range(packed.shape[0] // BLOCK_BYTES):
        bytes_ = packed[block * 16 : block * 16 + 16]
        out = acc[block * 64 : block * 64 + 64]
        for b in range(16):
            byte = np.int32(bytes_[b])
            out[b] += ((byte & 3) - 1) * activation
            out[16 + b] += ((byte >> 2 & 3) - 1) * activation
            out[32 + b] += ((byte >> 4 & 3) - 1) * activation
            out[48 + b] += ((byte >> 6) - 1) * activation


def multiply_strip(
    x: npt.NDArray[np.int8], packed: npt.NDArray[np.uint8], bounds: tuple[Int, Int],
    acc: npt.NDArray[np.int32],
) -> None:  # fmt: skip
    """Multiply one token with the bytes ``bounds`` of a strip's inputs, (K, W)."""
    acc[:] = 0
    for k in range(x.shape[0]):
        if x[k] != 0:
            add_input(packed[k][bounds[0] : bounds[1]], np.int32(x[k]), acc)


@kernel("ColumnBitLinear")
def column_bit_linear(
    thread: int,
    threads: int,
    x: npt.NDArray[np.int8],  # (T, K)
    packed: npt.NDArray[np.uint8],  # (S, K, W)
    acc: npt.NDArray[np.int32],  # (T, 4 * S * W)
) -> None:
    """Split by blocks of 64 outputs."""
    strips, _, width = packed.shape
    blocks = width // BLOCK_BYTES
    begin, end = share(strips * blocks, thread, threads)
    for strip in range(strips):
        first = max(begin - strip * blocks, 0)
        last = min(end - strip * blocks, blocks)
        if first >= last:
            continue
        outputs = (strip * blocks + first) * 64, (strip * blocks + last) * 64
        bounds = first * BLOCK_BYTES, last * BLOCK_BYTES
        for t in range(x.shape[0]):
            multiply_strip(x[t], packed[strip], bounds, acc[t][outputs[0] : outputs[1]])
