"""Products by table look-up: one entry stands for four inputs and one bit of each weight.

A code of B bits is (sum over bits of 2^b s_b + 2^B - 1) / 2 with signs s_b = 2 bit_b - 1, so
tables need sums of +-x only. The table of -s is minus that of s: eight entries do, and the sign
comes from the last of the four bits (LUT Tensor Core, arXiv 2408.06003, section 3.2).
"""

import numpy as np
import numpy.typing as npt

from edgellm.device import Array
from edgellm.ops._integers import round_shift

Int64 = npt.NDArray[np.int64]

QUAD = 4
ENTRIES = 1 << (QUAD - 1)
EXACT_BITS = 11
"""Sums of four int8 codes lie in [-508, 508]; with fewer bits an entry is rounded."""

_SIGNS = np.array(
    [
        [1 if entry >> place & 1 else -1 for place in range(QUAD - 1)] + [1]
        for entry in range(ENTRIES)
    ]
)


def tables(x: Array, lut_bits: int) -> Int64:
    """Return the tables of rows of int8 codes.

    With fewer than 11 bits a table is scaled by a power of two until its entries fit, and rounded
    half up: a declared loss, after the paper's int8 tables.

    Args:
        x: (T, K) in [-127, 127]; padded with zeros to whole quads.
        lut_bits: of an entry, with its sign.

    Returns:
        (T, ceil(K / 4), 8).
    """
    padded = np.pad(x.astype(np.int64), ((0, 0), (0, -x.shape[1] % QUAD)))
    exact: Int64 = padded.reshape(len(x), -1, QUAD) @ _SIGNS.T
    if lut_bits >= EXACT_BITS:
        return exact
    largest = np.abs(exact).max(axis=2, keepdims=True)
    bound = (1 << (lut_bits - 1)) - 1
    shift = sum((round_shift(largest, step) > bound).astype(np.int64) for step in range(EXACT_BITS))
    return round_shift(exact, shift) << shift


def look_up(table: Array, bits: Array) -> Int64:
    """Return ``sum over columns of x * (2 bit - 1)``, a look-up for each four columns.

    Args:
        table: (T, Q, 8), of ``tables``.
        bits: (N, K) 0 or 1, K <= 4 Q.

    Returns:
        (T, N).
    """
    entries = table.astype(np.int64)
    quads = np.pad(bits.astype(np.int64), ((0, 0), (0, -bits.shape[1] % QUAD)))
    quads = quads.reshape(len(bits), -1, QUAD)
    positive = quads[:, :, -1]
    low = quads[:, :, : QUAD - 1] ^ (1 - positive)[:, :, None]
    index = low @ (1 << np.arange(QUAD - 1))
    total = np.zeros((len(entries), len(bits)), np.int64)
    for quad in range(quads.shape[1]):
        total += entries[:, quad, index[:, quad]] * (2 * positive[:, quad] - 1)
    return total


def products(table: Array, sums: Array, codes: Array, bits: int) -> Int64:
    """Return ``x @ codes.T``, one bit of the codes after the other.

    Args:
        table: (T, Q, 8).
        sums: (T, 1): the sum of each row of x.
        codes: (N, K), 0 <= code < 2^bits.
        bits: of a code.
    """
    planes = codes.astype(np.int64)
    signed = sum(look_up(table, planes >> bit & 1) << bit for bit in range(bits))
    doubled: Int64 = signed + ((1 << bits) - 1) * sums.astype(np.int64)
    return doubled >> 1
