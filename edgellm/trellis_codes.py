"""The layout of weights whose codes overlap, trellis/v1: 12 bits choose each, few of them new."""

import numpy as np
import numpy.typing as npt

TRELLIS = "trellis/v1"
"""A weight (N, K) of int8 levels in (N, B) bytes, of any B. All bytes in a row are P = N * B // K
planes of K bytes each; the few that are left are zero. Column k has the 8 * P bits of byte k of all
planes, those of plane 0 first and each byte's lowest bit first, and they go round: the first follow
the last. The weight of row n is chosen by the 12 bits from bit n * 8 * P // N on, its state: with 8
* P / N = 2.5 bits a weight two or three of them are new in each row. So all of a column's weights
hang together, and which 2^(8 * P) columns there are is what makes them fit so well.

A state s, its first bit the lowest, stands for LEVELS[h // 256] + LEVELS[h // 16 % 16], h = s *
MULTIPLIER mod 4096: by 4 bits of a hash each, states that share bits get unrelated levels.

This is the bitshift trellis of QTIP (arXiv 2406.11235, section 3.1) with a computed code (section
3.1.1), down the columns of a weight, and with any bits a weight."""

STATE_BITS = 12
STATES = 1 << STATE_BITS
MULTIPLIER = 2335
"""Of Gaussian weights, with 1.5, 2, 2.5, 3 and 3.5 bits, 1.22, 1.20, 1.22, 1.26 and 1.36 times the
least squared error that there can be (4^-bits of their square) is left; levels drawn at random for
each state leave 1.19, 1.21, 1.25, 1.29 and 1.34. The best of 260 multipliers."""
LEVELS = (-63, -45, -34, -26, -20, -14, -8, -3, 3, 8, 14, 20, 26, 34, 45, 63)
"""34 times the 16 quantiles in the middle of equal parts of the normal distribution."""
LEVEL_RMS = 46.1
"""Of the levels of all states."""

States = npt.NDArray[np.uint16]


def num_planes(rows: int, columns: int, row_bytes: int) -> int:
    """Return the planes of a weight (rows, columns) with so many bytes a row."""
    return rows * row_bytes // columns


def first_bits(rows: int, planes: int) -> npt.NDArray[np.int64]:
    """Return the bit (rows,) where the state of each row begins."""
    return np.arange(rows, dtype=np.int64) * 8 * planes // rows


def state_levels() -> npt.NDArray[np.int8]:
    """Return the level of each state, (4096,)."""
    mixed = np.arange(STATES) * MULTIPLIER % STATES
    levels = np.array(LEVELS, np.int8)
    return levels[mixed // 256] + levels[mixed // 16 % 16]


def pack_trellis(states: States, row_bytes: int) -> npt.NDArray[np.uint8]:
    """Pack states, neighbours of which agree in the bits that they share.

    Args:
        states: (N, K), each below 4096.
        row_bytes: at least K / N.

    Returns:
        (N, row_bytes) in the layout TRELLIS.
    """
    rows, columns = states.shape
    planes = num_planes(rows, columns, row_bytes)
    bits = np.zeros((8 * planes, columns), np.uint8)
    firsts = first_bits(rows, planes)
    for bit in range(STATE_BITS):
        bits[(firsts + bit) % (8 * planes)] = states >> np.uint16(bit) & np.uint16(1)
    packed = np.zeros(rows * row_bytes, np.uint8)
    packed[: planes * columns] = np.packbits(bits, axis=0, bitorder="little").reshape(-1)
    return packed.reshape(rows, row_bytes)


def unpack_states(codes: npt.NDArray[np.uint8], columns: int) -> States:
    """Return the states (N, columns) of a packed weight."""
    rows, row_bytes = codes.shape
    count = num_planes(rows, columns, row_bytes)
    planes = codes.reshape(-1)[: count * columns].reshape(count, columns).astype(np.uint32)
    firsts = first_bits(rows, count)
    first, second, third = (planes[(firsts // 8 + i) % count] for i in range(3))
    bits = first | second << np.uint32(8) | third << np.uint32(16)
    shifts = (firsts % 8).astype(np.uint32)[:, None]
    return (bits >> shifts & np.uint32(STATES - 1)).astype(np.uint16)


def unpack_trellis(codes: npt.NDArray[np.uint8], columns: int) -> npt.NDArray[np.int8]:
    """Return the levels (N, columns) of a packed weight."""
    return state_levels()[unpack_states(codes, columns)]
