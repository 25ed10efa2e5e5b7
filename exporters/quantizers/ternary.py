"""Ternary weights of BitNet b1.58 checkpoints: packed by transformers, or float masters.

The packed layout and both quantisers are those of transformers' ``integrations/bitnet.py``.
"""

from collections.abc import Callable, Iterable, Iterator

import numpy as np
import numpy.typing as npt

from edgellm import dtypes
from edgellm.errors import CheckpointError

SMALLEST_MEAN = np.float32(1e-5)
VALUES_PER_BYTE = 4

Codes = npt.NDArray[np.int8]
FloatBlocks = Callable[[], Iterable[npt.NDArray[np.float32]]]


def unpack(packed: npt.NDArray[np.uint8], rows: int, where: str) -> Iterator[Codes]:
    """Yield the codes of the transformers layout in blocks of rows.

    With R packed rows, output row ``i * R + r`` sits in bits 2i and 2i + 1 of packed row r, as
    value + 1. Rows beyond ``rows`` are padding.

    Args:
        packed: (R, K), R = ceil(rows / 4).
        rows: N.
        where: file and tensor, for messages.

    Raises:
        CheckpointError: a code is 3, which stands for no weight.
    """
    for plane in range(VALUES_PER_BYTE):
        codes = (packed >> np.uint8(2 * plane)) & np.uint8(3)
        codes = codes[: max(0, rows - plane * packed.shape[0])]
        if (codes == 3).any():
            row, column = (int(index) for index in np.argwhere(codes == 3)[0])
            raise CheckpointError(
                f"{where}: the code of row {plane * packed.shape[0] + row}, column {column} is 3; "
                "allowed are 0, 1 and 2, for -1, 0 and 1: the file is damaged"
            )
        yield codes.astype(np.int8) - np.int8(1)


def master_scale(blocks: FloatBlocks) -> np.float32:
    """Return ``max(mean|W|, 1e-5)`` of a float master."""
    total, count = 0.0, 0
    for block in blocks():
        total += float(np.abs(block).sum(dtype=np.float64))
        count += block.size
    return max(np.float32(total / max(count, 1)), SMALLEST_MEAN)


def ternarize(blocks: FloatBlocks, scale: np.float32) -> Iterator[Codes]:
    """Yield ``clamp(round(W * (1 / scale)), -1, 1)`` in float32, half to even, block by block."""
    inverse = np.float32(1.0) / scale
    for block in blocks():
        yield np.clip(np.rint(block * inverse), -1, 1).astype(np.int8)


def check_codes(codes: Iterable[Codes], where: str) -> Iterator[Codes]:
    """Pass codes through, and refuse a matrix in which all are the same.

    Raises:
        CheckpointError: after the last block, if every weight is -1, or 0, or 1.
    """
    low, high = 1, -1
    for block in codes:
        low, high = min(low, int(block.min())), max(high, int(block.max()))
        yield block
    if low == high:
        raise CheckpointError(
            f"{where}: all weights are {low}; the file is damaged or was never filled"
        )


def pack_columns(
    blocks: Iterable[Codes], shape: tuple[int, int, int]
) -> Iterator[npt.NDArray[np.uint8]]:
    """Yield the strips of the layout ``ternary-2bit-columns/v1``; one is in memory at a time.

    Args:
        blocks: the rows of the matrix, some at a time.
        shape: (S, K, W) of the result.
    """
    _, columns, width = shape
    piece = dtypes.packed_columns(dtypes.TERNARY_BLOCK)
    groups = regrouped(blocks, dtypes.TERNARY_BLOCK)
    while (rows := next(groups, None)) is not None:
        strip = np.empty((columns, width), np.uint8)
        strip[:, :piece] = dtypes.pack_ternary(rows.T)
        for begin in range(piece, width, piece):
            strip[:, begin : begin + piece] = dtypes.pack_ternary(next(groups).T)
        yield strip


def regrouped(blocks: Iterable[Codes], count: int) -> Iterator[Codes]:
    """Yield the same rows, ``count`` at a time; they are a multiple of it."""
    rest: Codes | None = None
    for block in blocks:
        rows = block if rest is None else np.concatenate([rest, block])
        whole = len(rows) // count * count
        for first in range(0, whole, count):
            yield rows[first : first + count]
        rest = rows[whole:].copy()
