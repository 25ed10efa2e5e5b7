"""The layout row-codes/v1: what is packed comes back, and the bytes are those that it promises."""

import numpy as np
import pytest

from edgellm.row_codes import BITS, pack_row_codes, row_bytes, unpack_row_codes


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("columns", [1, 63, 64, 130])
def test_what_is_packed_comes_back(bits: int, columns: int) -> None:
    codes = np.random.default_rng(1).integers(0, 2**bits, (3, columns)).astype(np.uint8)

    packed = pack_row_codes(codes, bits)

    assert packed.shape == (3, row_bytes(columns, bits))
    np.testing.assert_array_equal(unpack_row_codes(packed, bits, columns), codes)


@pytest.mark.parametrize(
    ("bits", "column", "code", "expected"),
    [
        (4, 35, 0b1001, {3: 0b1001_0000}),
        (2, 33, 0b11, {1: 0b0011_0000}),
        (3, 50, 0b110, {2: 0b1000_0000, 16 + 2: 0b0100_0000}),
    ],
)
def test_bytes_are_as_documented(
    bits: int, column: int, code: int, expected: dict[int, int]
) -> None:
    codes = np.zeros((1, 64), np.uint8)
    codes[0, column] = code

    (row,) = pack_row_codes(codes, bits)

    assert {int(byte): int(row[byte]) for byte in np.flatnonzero(row)} == expected
