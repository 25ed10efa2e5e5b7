import itertools

import numpy as np
import pytest

from edgellm import dtypes


def test_five_trits_have_a_byte_each_as_the_layout_says():
    """The rule of the docstring, from bytes to codes."""
    for byte in range(243):
        if byte < 192:
            low, high, last = byte & 7, byte >> 3 & 7, byte >> 6
        elif byte < 240:
            nibble, last = byte & 15, byte >> 4 & 3
            low, high = (nibble, 8) if nibble < 8 else (8, nibble - 8)
        else:
            low, high, last = 8, 8, byte - 240
        expected = [low % 3, low // 3, high % 3, high // 3, last]
        assert dtypes.TRITS_OF_BYTE[byte].tolist() == expected
    codes = {tuple(codes) for codes in dtypes.TRITS_OF_BYTE[:243].tolist()}
    assert codes == set(itertools.product(range(3), repeat=5))


@pytest.mark.parametrize(
    ("columns", "size"),
    [(1, 64), (320, 64), (321, 80), (400, 80), (401, 96), (560, 112), (640, 128), (6912, 1392)],
)
def test_rows_of_trits_are_blocks_and_a_shorter_last_one(columns, size):
    assert dtypes.trit_bytes(columns) == size


def test_columns_lie_as_the_layout_says():
    """One weight of 1 among zeros: its byte differs from that of five zeros."""
    empty = dtypes.pack_trits(np.zeros((1, 400), np.int8))[0]
    for column in range(400):
        weight = np.zeros((1, 400), np.int8)
        weight[0, column] = 1
        packed = dtypes.pack_trits(weight)[0]
        place, size, first = (column, 64, 0) if column < 320 else (column - 320, 16, 64)
        assert np.flatnonzero(packed != empty).tolist() == [first + place % size]
        assert dtypes.TRITS_OF_BYTE[packed[first + place % size], place // size] == 2
