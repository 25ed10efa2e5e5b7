"""The layout trellis/v1: what is packed comes back, and the bytes are those that it promises."""

import numpy as np
import pytest

from edgellm.trellis_codes import (
    LEVEL_RMS,
    STATES,
    first_bits,
    num_planes,
    pack_trellis,
    state_levels,
    unpack_states,
    unpack_trellis,
)


@pytest.mark.parametrize(
    ("rows", "columns", "row_bytes"),
    [(64, 64, 20), (67, 172, 54), (7, 3, 2), (3, 1, 1), (2, 5, 5)],
)
def test_what_is_packed_comes_back(rows: int, columns: int, row_bytes: int) -> None:
    codes = np.random.default_rng(1).integers(0, 256, (rows, row_bytes)).astype(np.uint8)
    held = num_planes(rows, columns, row_bytes) * columns
    codes.reshape(-1)[held:] = 0

    packed = pack_trellis(unpack_states(codes, columns), row_bytes)

    np.testing.assert_array_equal(packed, codes)


def test_bits_are_as_documented() -> None:
    """Of 4 rows with 2.5 bits the states begin at bits 0, 4, 8, 12 of 16: there are two planes."""
    assert first_bits(4, 2).tolist() == [0, 4, 8, 12]
    # Columns 0 and 1: 16 bits each, the lower byte in the first plane.
    planes = np.array([[0x21, 0x0F], [0x43, 0x00]], np.uint8)

    states = unpack_states(planes.reshape(4, 1), 2)

    assert [hex(state) for state in states[:, 0]] == ["0x321", "0x432", "0x143", "0x214"]
    assert [hex(state) for state in states[:, 1]] == ["0xf", "0x0", "0xf00", "0xf0"]


def test_levels_by_hand() -> None:
    # 3 * 2335 is 7005, modulo 4096 0xb5d: entries 11 and 5.
    assert state_levels()[[0, 3]].tolist() == [-63 + -63, 20 + -14]
    assert unpack_trellis(np.zeros((4, 1), np.uint8), 2).tolist() == [[-126, -126]] * 4


def test_levels_are_nearly_gaussian() -> None:
    levels = state_levels().astype(np.float64)

    assert len(levels) == STATES
    assert levels.mean() == 0
    assert np.sqrt((levels**2).mean()) == pytest.approx(LEVEL_RMS, abs=0.05)
    assert np.abs(levels).max() == 126
