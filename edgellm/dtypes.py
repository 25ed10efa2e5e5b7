"""The only definition of each bit layout: pack, unpack, ranges, and a versioned layout id.

A layout id names bytes on disk for ever: a change of the bytes is a new id, never a new meaning.
"""

import itertools

import numpy as np
import numpy.typing as npt

from edgellm.errors import CheckpointError
from edgellm.int4 import pack_int4

TERNARY_2BIT = "ternary-2bit/v1"
"""Two bits a weight. Rows are padded with zeros to a multiple of 64 columns. A block of 64 columns
is 16 bytes; bits 2p..2p+1 of byte b hold the code (weight + 1) of column 16*p + b. So 16
neighbouring bytes shifted by 2p are 16 neighbouring weights, on a vector unit of any width."""

TERNARY_BLOCK = 64
"""Columns in one block of TERNARY_2BIT."""

_SHIFTS = np.array([0, 2, 4, 6], dtype=np.uint8).reshape(1, 1, 4, 1)


def packed_columns(columns: int) -> int:
    """Return the bytes that a row of ``columns`` ternary weights takes in TERNARY_2BIT."""
    return -(-columns // TERNARY_BLOCK) * (TERNARY_BLOCK // 4)


def pack_ternary(weight: npt.NDArray[np.int8]) -> npt.NDArray[np.uint8]:
    """Pack ternary weights.

    Args:
        weight: (N, K) int8, each -1, 0 or 1.

    Returns:
        (N, packed_columns(K)) uint8 in the layout TERNARY_2BIT.
    """
    rows, columns = weight.shape
    padded = np.zeros((rows, packed_columns(columns) * 4), dtype=np.int8)
    padded[:, :columns] = weight
    codes = (padded + 1).astype(np.uint8).reshape(rows, -1, 4, 16)
    return np.bitwise_or.reduce(codes << _SHIFTS, axis=2).reshape(rows, -1)


def unpack_ternary(packed: npt.NDArray[np.uint8], columns: int) -> npt.NDArray[np.int8]:
    """Unpack what ``pack_ternary`` made.

    Args:
        packed: (N, packed_columns(columns)) uint8.
        columns: K.

    Returns:
        (N, K) int8, each -1, 0 or 1.

    Raises:
        CheckpointError: a code is 3, which stands for no weight.
    """
    blocks = packed.reshape(packed.shape[0], -1, 1, 16)
    codes = (blocks >> _SHIFTS) & np.uint8(3)
    if (codes == 3).any():
        row = int(np.argwhere(codes == 3)[0, 0])
        raise CheckpointError(f"packed ternary row {row} holds the code 3; allowed are 0, 1, 2")
    return (codes.astype(np.int8) - np.int8(1)).reshape(packed.shape[0], -1)[:, :columns]


INT8_PLANES = "int8-planes/v1"
"""Eight bits a weight, in planes that can be read apart. A weight + 128 is a byte; its bits 4..7
are in ``high``, its bits 3, 2, 1, 0 in the planes 0, 1, 2, 3 of ``low``. Columns are a multiple of
64. Of ``high``, a block of 64 columns is 32 bytes: bits 0..3 of byte b are column b, bits 4..7
column 32 + b. Of a plane, such a block is 8 bytes: bit p of byte b is column 8*p + b."""

PLANES_BLOCK = 64
"""Columns in one block of INT8_PLANES."""
PLANES = 4
"""Planes of one bit in INT8_PLANES."""

_LEFT = np.arange(8, dtype=np.uint8).reshape(1, 1, 8, 1)
_PLACES = np.arange(PLANES - 1, -1, -1, dtype=np.uint8).reshape(PLANES, 1, 1)


def pack_planes(
    weight: npt.NDArray[np.int8],
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """Pack int8 weights in the layout INT8_PLANES.

    Args:
        weight: (N, K) int8, K a multiple of PLANES_BLOCK.

    Returns:
        high (N, K / 2) uint8 and low (4, N, K / 8) uint8.
    """
    rows = weight.shape[0]
    bytes_ = weight.view(np.uint8) ^ np.uint8(128)
    bits = (bytes_ >> _PLACES & np.uint8(1)).reshape(PLANES * rows, -1, 8, 8)
    low = np.bitwise_or.reduce(bits << _LEFT, axis=2)
    return pack_int4(weight >> 4), low.reshape(PLANES, rows, -1)


def unpack_planes(high: npt.NDArray[np.uint8], low: npt.NDArray[np.uint8]) -> npt.NDArray[np.int8]:
    """Unpack what ``pack_planes`` made: (N, K) int8."""
    rows = high.shape[0]
    blocks = high.reshape(rows, -1, 1, PLANES_BLOCK // 2)
    nibbles = np.concatenate([blocks << np.uint8(4), blocks & np.uint8(0xF0)], axis=2)
    fields = low.reshape(PLANES * rows, -1, 1, 8) >> _LEFT & np.uint8(1)
    bits = np.bitwise_or.reduce(fields.reshape(PLANES, rows, -1) << _PLACES, axis=0)
    return ((nibbles.reshape(rows, -1) | bits) ^ np.uint8(128)).view(np.int8)


TERNARY_2BIT_COLUMNS = "ternary-2bit-columns/v1"
"""Two bits a weight, by input: what one input is multiplied with lies together, so that inputs
which are zero are never read. The outputs, a multiple of 64, are cut into S equal strips. For each
strip, then each input, W bytes hold the weights of the strip's outputs as a row of TERNARY_2BIT
would: 16 bytes for every 64 outputs. The shape is (S, K, W); the outputs are 4 * S * W."""

WEIGHTS_PER_BYTE = 4
WHOLE_STRIPS = 512
"""Two strips of whole cache lines take a multiple of so many outputs."""


def column_strips(outputs: int) -> int:
    """Return how many strips of TERNARY_2BIT_COLUMNS an export makes; 0 where it does not suit.

    A strip's bytes of one input want to be long: processors fetch neighbouring lines together. But
    two threads want their own, which follow each other. Measured on an Intel server of 2024, 6912
    inputs of which 32 % are live, 2560 outputs, best of 9: one thread takes 172 us for one strip
    and 201 us for two, two threads 140 and 110 us.
    """
    if outputs % TERNARY_BLOCK:
        return 0
    return 2 if outputs % WHOLE_STRIPS == 0 else 1


def pack_ternary_columns(weight: npt.NDArray[np.int8], strips: int) -> npt.NDArray[np.uint8]:
    """Pack ternary weights by input.

    Args:
        weight: (N, K) int8, each -1, 0 or 1; N is a multiple of 64 * strips.
        strips: S.

    Returns:
        (S, K, N / (4 * S)) uint8 in the layout TERNARY_2BIT_COLUMNS.
    """
    rows = weight.shape[0] // strips
    parts = [weight[first : first + rows].T for first in range(0, weight.shape[0], rows)]
    return np.stack([pack_ternary(part) for part in parts])


def unpack_ternary_columns(packed: npt.NDArray[np.uint8]) -> npt.NDArray[np.int8]:
    """Unpack what ``pack_ternary_columns`` made, (S, K, W) uint8, to (4 * S * W, K) int8.

    Raises:
        CheckpointError: a code is 3, which stands for no weight.
    """
    rows = 4 * packed.shape[2]
    return np.concatenate([unpack_ternary(strip, rows).T for strip in packed])


BIT_PLANES = "bit-planes/v1"
"""One bit a weight in each plane, for look-ups by rows. A block of 64 rows and 8 columns is 64
bytes a plane: bit c of byte r of block (b, o) of plane p is the bit of row 64*b + r and column
8*o + c. Rows and columns beyond the matrix are zero. The planes of a block lie side by side, so one
pass over the memory serves weights of any number of bits, and its length grows with them."""

PLANE_ROWS = 64
"""Rows in one block of BIT_PLANES."""
PLANE_COLUMNS = 8
"""Columns in one block of BIT_PLANES."""


def bit_plane_shape(rows: int, columns: int, planes: int) -> tuple[int, int, int, int]:
    """Return the shape that a matrix of so many rows and columns has in BIT_PLANES."""
    return -(-rows // PLANE_ROWS), -(-columns // PLANE_COLUMNS), planes, PLANE_ROWS


def pack_bit_planes(bits: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Pack planes of bits.

    Args:
        bits: (P, N, K) uint8, each 0 or 1.

    Returns:
        ``bit_plane_shape(N, K, P)`` uint8 in the layout BIT_PLANES.
    """
    planes, rows, columns = bits.shape
    blocks, octets, _, _ = bit_plane_shape(rows, columns, planes)
    padded = np.zeros((planes, blocks * PLANE_ROWS, octets * PLANE_COLUMNS), np.uint8)
    padded[:, :rows, :columns] = bits
    packed = np.packbits(padded, axis=2, bitorder="little")
    return np.ascontiguousarray(
        packed.reshape(planes, blocks, PLANE_ROWS, octets).transpose(1, 3, 0, 2)
    )


def unpack_bit_planes(
    packed: npt.NDArray[np.uint8], rows: int, columns: int
) -> npt.NDArray[np.uint8]:
    """Return the bits that ``pack_bit_planes`` packed, (P, rows, columns) of 0 and 1."""
    blocks, octets, planes, _ = packed.shape
    by_row = packed.transpose(2, 0, 3, 1).reshape(planes, blocks * PLANE_ROWS, octets)
    bits = np.unpackbits(by_row, axis=2, bitorder="little")
    return bits[:, :rows, :columns]


TERNARY_5TRIT = "ternary-5trit/v1"
"""Five weights a byte, 1.6 bits a weight. A row is blocks of 64 bytes, 320 columns; what is left
over is padded with zeros to a multiple of 80 columns and makes a last block of 16, 32, 48 or 64
bytes; a row has at least 64 bytes. Byte b of a block of B bytes holds columns B*p + b for p < 5.

The codes c = weight + 1 of the five are packed as low = c0 + 3*c1, high = c2 + 3*c3 and c4:

    low < 8, high < 8:    64*c4 + 8*high + low     the usual case: two bits, three bits, three bits
    low < 8, high = 8:    192 + 16*c4 + low
    low = 8, high < 8:    192 + 16*c4 + 8 + high
    low = 8, high = 8:    240 + c4                  the bytes from 243 on stand for nothing

So six bits of a byte choose from a table of 64, or three bits twice from one of 8, and only the
bytes from 192 on need another: fewer instructions than digits of base 3, where one byte chooses
from 243."""

TRIT_BLOCK_BYTES = 64
"""Of 320 columns."""
TRITS = 5
"""Weights in a byte of TERNARY_5TRIT."""
TRIT_BYTES = 3**TRITS
"""How many bytes stand for something in TERNARY_5TRIT: those below."""
_TRIT_PIECE_BYTES = 16

Codes = npt.NDArray[np.int8]
Packed = npt.NDArray[np.uint8]


def _byte_of(codes: tuple[int, ...]) -> int:
    """Return the byte of TERNARY_5TRIT that holds five codes."""
    low, high, last = codes[0] + 3 * codes[1], codes[2] + 3 * codes[3], codes[4]
    if low < 8 and high < 8:
        return 64 * last + 8 * high + low
    if low < 8:
        return 192 + 16 * last + low
    return 192 + 16 * last + 8 + high if high < 8 else 240 + last


_TRIT_DIGITS = tuple(itertools.product(range(3), repeat=TRITS))
_BYTE_OF_TRITS = np.array([_byte_of(codes) for codes in _TRIT_DIGITS], np.uint8)
_DIGIT_VALUES = 3 ** np.arange(TRITS - 1, -1, -1, dtype=np.uint8)

TRITS_OF_BYTE = np.zeros((256, TRITS), np.uint8)
"""The five codes of each byte of TERNARY_5TRIT; 0 for bytes that stand for nothing."""
TRITS_OF_BYTE[_BYTE_OF_TRITS] = _TRIT_DIGITS
TRITS_OF_BYTE.setflags(write=False)


def trit_bytes(columns: int) -> int:
    """Return the bytes that a row of ``columns`` ternary weights takes in TERNARY_5TRIT."""
    pieces = -(-columns // (TRITS * _TRIT_PIECE_BYTES))
    return max(pieces * _TRIT_PIECE_BYTES, TRIT_BLOCK_BYTES)


def pack_trits(weight: Codes) -> Packed:
    """Pack ternary weights.

    Args:
        weight: (N, K) int8, each -1, 0 or 1.

    Returns:
        (N, trit_bytes(K)) uint8 in the layout TERNARY_5TRIT.
    """
    rows, columns = weight.shape
    size = trit_bytes(columns)
    padded = np.ones((rows, size * TRITS), np.uint8)
    padded[:, :columns] = weight + np.int8(1)
    packed = np.empty((rows, size), np.uint8)
    for begin in range(0, size, TRIT_BLOCK_BYTES):
        end = min(begin + TRIT_BLOCK_BYTES, size)
        block = padded[:, begin * TRITS : end * TRITS].reshape(rows, TRITS, end - begin)
        number = np.zeros((rows, end - begin), np.uint8)
        for digit, value in enumerate(_DIGIT_VALUES):
            number += block[:, digit] * value
        packed[:, begin:end] = _BYTE_OF_TRITS[number]
    return packed


def unpack_trits(packed: Packed, columns: int) -> Codes:
    """Unpack what ``pack_trits`` made.

    Args:
        packed: (N, trit_bytes(columns)) uint8.
        columns: K.

    Returns:
        (N, K) int8, each -1, 0 or 1.

    Raises:
        CheckpointError: a byte stands for no weights.
    """
    damaged = damaged_trits(packed)
    if damaged.any():
        row, byte = (int(index) for index in np.argwhere(damaged)[0])
        raise CheckpointError(
            f"packed ternary row {row} holds the byte {packed[row, byte]}; allowed are 0 to "
            f"{TRIT_BYTES - 1}"
        )
    rows, size = packed.shape
    codes = np.empty((rows, size * TRITS), np.int8)
    for begin in range(0, size, TRIT_BLOCK_BYTES):
        block = TRITS_OF_BYTE[packed[:, begin : begin + TRIT_BLOCK_BYTES]].transpose(0, 2, 1)
        end = begin + block.shape[2]
        codes[:, begin * TRITS : end * TRITS] = block.reshape(rows, -1)
    codes -= 1
    return codes[:, :columns]


def damaged_ternary(packed: Packed) -> npt.NDArray[np.bool_]:
    """Tell which bytes of TERNARY_2BIT hold the code 3."""
    return (packed & (packed >> np.uint8(1)) & np.uint8(0x55)) != 0


def damaged_trits(packed: Packed) -> npt.NDArray[np.bool_]:
    """Tell which bytes of TERNARY_5TRIT stand for nothing."""
    return packed >= TRIT_BYTES
