"""Alphas of sums of binary matrices: each a sum of signed powers of two, of four bits a power."""

import numpy as np
import numpy.typing as npt

SHIFT_ALPHAS = "shift-alphas/v2"
"""Alphas of N rows, G groups and P planes, each a sum of at most S signed powers of two, in (N, A)
bytes, A = G*H, H = (P*S + 1) // 2. Blocks of 64 rows follow one another; the last may have fewer.
A block has the bytes of its rows group by group, and of each group byte h of all rows before byte
h + 1. So they are read in the order of memory, as the bits are (bit-planes/v1).

Of a row and group nibble i is the lower half of byte i // 2 if i is even, else the upper half;
alpha p has nibbles p*S to p*S + S - 1. The first of them is its largest exponent + 1, or 0 where it
is zero. Bits 0..2 of each other nibble say how far its exponent is below that of the term before, 1
to 7 for 2 to 8, or 0: no more terms; bit 3 is set for minus. What would be below 2^0 ends an alpha
as well.

An alpha is never negative: it and its bits may change their signs together. In the non-adjacent
form of a number, which has as few signed powers of two as there can be, no two are neighbours. A
term that is 2^9 times smaller than the one before, or less, is left out, and so are those after."""

BLOCK_ROWS = 64
MAX_TERMS = 8
MAX_EXPONENT = 14
LARGEST_GAP = 8
"""Of the exponents of two terms."""

GAP_BITS = 7
"""The bits of a nibble that say how far its exponent is below the one before."""
MINUS = 8
"""The bit of a nibble that says that its term is negative."""
END = 255
"""A gap that no exponent is left after."""
GAPS = (END, *range(2, LARGEST_GAP + 1)) * 2
"""How far each nibble that is not an alpha's first is below the one before."""
SIGNS = (1,) * MINUS + (-1,) * MINUS
POWERS = (0, *(1 << exponent for exponent in range(MAX_EXPONENT + 1)))
"""What an exponent + 1 stands for."""
LARGEST_ALPHA = 21_845
"""2^14 + 2^12 + ... + 2^0."""


def alpha_bytes(planes: int, terms: int) -> int:
    """Return the bytes that the alphas of so many planes take for each group of a row."""
    return (planes * terms + 1) // 2


def pack_alphas(alphas: npt.NDArray[np.int64], terms: int) -> npt.NDArray[np.uint8]:
    """Pack alphas.

    Args:
        alphas: (G, P, N), 0 to LARGEST_ALPHA, each the sum of at most ``terms`` signed powers.
        terms: the most of an alpha.

    Returns:
        (N, G * ``alpha_bytes(P, terms)``) uint8 in the layout SHIFT_ALPHAS.

    Raises:
        ValueError: an alpha is out of range or has more terms.
    """
    if alphas.size and not 0 <= alphas.min() <= alphas.max() <= LARGEST_ALPHA:
        raise ValueError(f"an alpha is out of range; allowed are 0 to {LARGEST_ALPHA}")
    thrice = 3 * alphas
    changed = alphas ^ thrice
    plus, minus = (thrice & changed) >> 1, (alphas & changed) >> 1  # the non-adjacent form
    nibbles = np.zeros((*alphas.shape[:2], terms, alphas.shape[2]), np.uint8)
    before = np.full(alphas.shape, MAX_EXPONENT)
    for term in range(terms):
        exponent = np.frexp((plus | minus).astype(np.float64))[1] - 1  # -1 where nothing is left
        gap = before - exponent
        is_kept = (exponent >= 0) & ((gap <= LARGEST_GAP) | (term == 0))
        power = np.where(is_kept, 1 << np.maximum(exponent, 0), 0)
        code = exponent + 1 if term == 0 else gap - 1 + np.where(minus & power, MINUS, 0)
        nibbles[:, :, term] = np.where(is_kept, code, 0)
        plus, minus = (np.where(is_kept, part & ~power, 0) for part in (plus, minus))
        before = exponent
    if (plus | minus).any():
        raise ValueError(f"an alpha is no sum of {terms} signed powers of two")
    return pack_nibbles(nibbles)


def pack_nibbles(nibbles: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Return nibbles (G, P, S, N) of alphas, of any value, as ``pack_alphas`` does."""
    flat = nibbles.reshape(nibbles.shape[0], -1, nibbles.shape[3])
    even = np.pad(flat, ((0, 0), (0, flat.shape[1] % 2), (0, 0)))
    bytes_ = (even[:, 0::2] | even[:, 1::2] << np.uint8(4)).reshape(-1, nibbles.shape[3])  # (A, N)
    packed = np.empty(bytes_.shape[::-1], np.uint8)
    packed.reshape(-1)[_places(*packed.shape)] = bytes_
    return packed


def _places(rows: int, row_bytes: int) -> npt.NDArray[np.int64]:
    """Return which byte of all is byte a of row n, (A, N)."""
    row = np.arange(rows)
    begin = row - row % BLOCK_ROWS
    width = np.minimum(BLOCK_ROWS, rows - begin)
    places: npt.NDArray[np.int64] = (
        begin * row_bytes + row % BLOCK_ROWS + np.arange(row_bytes)[:, None] * width
    )
    return places


def unpack_alphas(packed: npt.NDArray[np.uint8], planes: int, terms: int) -> npt.NDArray[np.int64]:
    """Return the alphas as integers.

    Args:
        packed: (N, G * ``alpha_bytes(planes, terms)``) in the layout SHIFT_ALPHAS.
        planes: of bits.
        terms: the most of an alpha.

    Returns:
        (G, planes, N), each between 0 and LARGEST_ALPHA.
    """
    rows = packed.shape[0]
    ordered = np.ascontiguousarray(packed).reshape(-1)[_places(*packed.shape)]
    by_group = ordered.reshape(-1, alpha_bytes(planes, terms), rows)
    groups = len(by_group)
    halves = np.stack([by_group & np.uint8(15), by_group >> np.uint8(4)], axis=2)
    nibbles = halves.reshape(groups, -1, rows)[:, : planes * terms]
    nibbles = nibbles.reshape(groups, planes, terms, rows)
    gaps = np.array(GAPS, np.int64)[nibbles]
    gaps[:, :, 0] = -nibbles[:, :, 0].astype(np.int64)
    signs = np.array(SIGNS, np.int64)[nibbles]
    signs[:, :, 0] = 1
    powers = np.array(POWERS, np.int64)[np.maximum(-gaps.cumsum(axis=2), 0)]
    alphas: npt.NDArray[np.int64] = (signs * powers).sum(axis=2)
    return alphas
