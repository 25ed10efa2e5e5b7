"""The layout of codes of 2 to 4 bits row by row, row-codes/v1, for look-ups by columns."""

import numpy as np
import numpy.typing as npt

ROW_CODES = "row-codes/v1"
"""P = 2, 3 or 4 bits a code. Rows are padded with zeros to a multiple of 64 columns; a block of 64
is 8 * P bytes. P = 4: bits 0..3 of byte b are column b, bits 4..7 column 32 + b (as in int4/v1).
P = 2: bits 2p..2p+1 of byte b are column 16*p + b (as in ternary-2bit/v1). P = 3: 16 bytes with
bits 0 and 1 of the codes, as for P = 2; then 8 bytes with bit 2: bit p of byte b is column 8*p + b.
So a block is 64 keys in the order of their columns after one shift by lane and one mask."""

BLOCK = 64
"""Columns in one block of ROW_CODES."""
BITS = (2, 3, 4)
"""Bits that a code may have in ROW_CODES."""

Codes = npt.NDArray[np.uint8]


def row_bytes(columns: int, bits: int) -> int:
    """Return the bytes that a row of ``columns`` codes takes."""
    return -(-columns // BLOCK) * (BLOCK // 8) * bits


def bit_places(bits: int) -> npt.NDArray[np.int64]:
    """Return where a block has bit i of column c, as 8 * byte + bit; (bits, 64)."""
    column = np.arange(BLOCK)
    if bits == 4:
        fields = column % 32 * 8 + column // 32 * 4
        return np.stack([fields + bit for bit in range(4)])
    fields = column % 16 * 8 + column // 16 * 2
    last = 128 + column % 8 * 8 + column // 8
    return np.stack([fields, fields + 1, last][:bits])


def pack_row_codes(codes: Codes, bits: int) -> Codes:
    """Pack codes.

    Args:
        codes: (N, K) uint8, each below 2^bits.
        bits: one of BITS.

    Returns:
        (N, row_bytes(K, bits)) uint8 in the layout ROW_CODES.
    """
    rows, columns = codes.shape
    padded = np.zeros((rows, -(-columns // BLOCK) * BLOCK), np.uint8)
    padded[:, :columns] = codes
    blocks = padded.reshape(rows, -1, BLOCK)
    places = bit_places(bits)
    packed = np.empty((rows, blocks.shape[1], BLOCK * bits), np.uint8)
    for bit in range(bits):
        packed[..., places[bit]] = blocks >> np.uint8(bit) & np.uint8(1)
    return np.packbits(packed, axis=2, bitorder="little").reshape(rows, -1)


def unpack_row_codes(packed: Codes, bits: int, columns: int) -> Codes:
    """Return the codes (N, columns) that ``pack_row_codes`` packed."""
    rows = packed.shape[0]
    flat = np.unpackbits(packed.reshape(rows, -1, BLOCK // 8 * bits), axis=2, bitorder="little")
    places = bit_places(bits)
    codes = np.zeros((rows, flat.shape[1], BLOCK), np.uint8)
    for bit in range(bits):
        codes |= flat[..., places[bit]] << np.uint8(bit)
    return codes.reshape(rows, -1)[:, :columns]
