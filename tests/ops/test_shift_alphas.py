"""Alphas as signed powers of two, of four bits each."""

import numpy as np
import pytest

from edgellm.ops._shift_alphas import (
    LARGEST_ALPHA,
    alpha_bytes,
    pack_alphas,
    pack_nibbles,
    unpack_alphas,
)


@pytest.mark.parametrize("terms", [1, 2, 3, 8])
def test_sums_of_powers_come_back(terms: int) -> None:
    rng = np.random.default_rng(0)
    alphas = np.zeros((2, 3, 500), np.int64)
    exponent = np.full(alphas.shape, 15)
    for term in range(terms):
        exponent = exponent - rng.integers(2 - (term == 0), 8 + (term > 0), alphas.shape)
        sign = rng.choice([1, -1], alphas.shape) if term else 1
        alphas += np.where(exponent >= 0, sign << np.maximum(exponent, 0), 0)

    packed = pack_alphas(alphas, terms)

    assert packed.shape == (500, 2 * alpha_bytes(3, terms))
    np.testing.assert_array_equal(unpack_alphas(packed, 3, terms), alphas)


def test_the_layout_is_as_documented() -> None:
    """11 = 8 + 4 - 1 = 16 - 4 - 1: exponents 4, 2, 0; then 0, and 2^14 of one term."""
    alphas = np.array([11, 0, 1 << 14]).reshape(1, 3, 1)

    packed = pack_alphas(alphas, 3)

    assert packed.tolist() == [[5 | 9 << 4, 9, 0, 15, 0]]


def test_blocks_of_rows_follow_one_another() -> None:
    """Of 100 rows, the first 64 by group and byte, then the other 36."""
    bytes_ = np.arange(2 * 3 * 100, dtype=np.int64).reshape(2, 3, 100) % 251
    nibbles = np.stack([bytes_ & 15, bytes_ >> 4], axis=2).reshape(2, 3, 2, 100).astype(np.uint8)

    packed = pack_nibbles(nibbles)

    flat = packed.reshape(-1).tolist()
    assert packed.shape == (100, 6)
    assert flat[: 64 * 6] == bytes_[:, :, :64].reshape(-1).tolist()
    assert flat[64 * 6 :] == bytes_[:, :, 64:].reshape(-1).tolist()


def test_any_bytes_are_alphas_in_range() -> None:
    packed = np.random.default_rng(0).integers(0, 256, (4096, 8 * 4), np.uint8)

    for terms in range(1, 9):
        alphas = unpack_alphas(packed[:, : 8 * alpha_bytes(1, terms)], 1, terms)
        assert alphas.min() == 0
        assert alphas.max() <= LARGEST_ALPHA
    most = pack_nibbles(np.array([15, *[1] * 7], np.uint8).reshape(1, 1, 8, 1))
    assert unpack_alphas(most, 1, 8).item() == LARGEST_ALPHA


def test_what_is_much_smaller_than_the_term_before_is_left_out() -> None:
    alphas = np.array([(1 << 12) + (1 << 4), (1 << 12) + (1 << 3) + 1]).reshape(1, 1, 2)

    assert unpack_alphas(pack_alphas(alphas, 3), 1, 3).tolist() == [[[4112, 4096]]]


@pytest.mark.parametrize(
    ("alpha", "message"), [(-1, "range"), (LARGEST_ALPHA + 1, "range"), (21, "2 signed powers")]
)
def test_what_cannot_be_stored_is_refused(alpha: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pack_alphas(np.full((1, 1, 1), alpha), 2)
