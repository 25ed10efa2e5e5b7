"""N:M weights as FlightLLM stores them: each block of 16 x 16 has an N of its own.

Of every 16 inputs of an output at most N weights of a block are not zero; N values are stored, each
with the 4-bit index of its input, which picks the activation (the Sparse-MUX). A block's N is its
entry in the FSB. N = 16 is dense and has no indices, so nothing is ever lost.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Codes = npt.NDArray[np.integer]

BLOCK = 16


@dataclass(frozen=True)
class SparseTile:
    """Weights (rows, columns), both padded to 16s.

    Attributes:
        values: kept weights, block after block, in each output after output.
        meta: index of each value among the 16 inputs, for blocks that are not dense.
        kept: (rows / 16, columns / 16) N of each block: what the FSB holds.
        rows: outputs, without padding.
    """

    values: npt.NDArray[np.int64]
    meta: npt.NDArray[np.uint8]
    kept: npt.NDArray[np.uint8]
    rows: int

    @property
    def density(self) -> float:
        """Share of the weights that are stored."""
        return len(self.values) / (self.kept.size * BLOCK * BLOCK)

    def stored_bits(self, weight_bits: int, index_bits: int) -> int:
        """Return the bits of values, indices, and a byte a block."""
        return len(self.values) * weight_bits + len(self.meta) * index_bits + 8 * self.kept.size


def encode(weights: Codes, allowed: tuple[int, ...]) -> SparseTile:
    """Store weights with the smallest allowed N of each block.

    Args:
        weights: (rows, columns).
        allowed: numbers N that the array can do; 16, which is dense, it always can.
    """
    rows, columns = weights.shape
    padded = np.pad(weights, ((0, -rows % BLOCK), (0, -columns % BLOCK))).astype(np.int64)
    blocks = padded.reshape(padded.shape[0] // BLOCK, BLOCK, -1, BLOCK).transpose(0, 2, 1, 3)
    needed = (blocks != 0).sum(axis=3).max(axis=2)
    sizes = np.array(sorted({*allowed, BLOCK}))
    kept = sizes[np.searchsorted(sizes, needed)].astype(np.uint8)
    values, meta = [], []
    for block, size in zip(blocks.reshape(-1, BLOCK, BLOCK), kept.ravel(), strict=True):
        # Not-zeros first, in their order; zeros fill up what is left of N.
        order = np.argsort(block == 0, axis=1, kind="stable")[:, :size]
        if size == BLOCK:
            values.append(block.ravel())
            continue
        values.append(np.take_along_axis(block, order, axis=1).ravel())
        meta.append(order.ravel().astype(np.uint8))
    nothing = np.zeros(0, np.uint8)
    return SparseTile(np.concatenate(values), np.concatenate([nothing, *meta]), kept, rows)


def multiply(x: Codes, tile: SparseTile) -> npt.NDArray[np.int64]:
    """Return ``x @ weights.T`` from what is stored; x is (tokens, columns)."""
    tokens, columns = x.shape
    wide = np.pad(x, ((0, 0), (0, tile.kept.shape[1] * BLOCK - columns))).astype(np.int64)
    total = np.zeros((tokens, tile.kept.shape[0] * BLOCK), np.int64)
    value = index = 0
    every = np.tile(np.arange(BLOCK), (BLOCK, 1))
    for (row, column), size in np.ndenumerate(tile.kept):
        count = BLOCK * int(size)
        weights = tile.values[value : value + count].reshape(BLOCK, size)
        value += count
        chosen: Codes = every
        if size < BLOCK:
            chosen = tile.meta[index : index + count].reshape(BLOCK, size)
            index += count
        inputs = wide[:, column * BLOCK : (column + 1) * BLOCK][:, chosen]
        total[:, row * BLOCK : (row + 1) * BLOCK] += (inputs * weights).sum(axis=2)
    return total[:, : tile.rows]
