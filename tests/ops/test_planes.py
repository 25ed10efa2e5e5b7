from dataclasses import replace

import numpy as np
import pytest

from edgellm.dtypes import pack_planes, unpack_planes
from edgellm.int4 import pack_int4, unpack_int4
from edgellm.ops import int4_logits_head, logits_head, planar_logits_head
from edgellm.ops._planes import residual_norms
from edgellm.ops._use import Use


def all_codes() -> np.ndarray:
    return np.random.default_rng(0).integers(-128, 128, (9, 192), np.int8)


def test_unpacking_gives_back_what_was_packed() -> None:
    codes = all_codes()

    np.testing.assert_array_equal(unpack_planes(*pack_planes(codes)), codes, strict=True)


def test_the_layout_is_as_documented() -> None:
    """Bit by bit, from the text in dtypes.py."""
    codes = all_codes()
    high, low = pack_planes(codes)
    for n, k in ((0, 0), (3, 37), (8, 191), (5, 100)):
        byte, (block, column) = int(codes[n, k]) + 128, divmod(k, 64)
        nibble = high[n, block * 32 + column % 32] >> (4 * (column // 32)) & 15
        assert nibble == byte >> 4
        bits = low[:, n, block * 8 + column % 8] >> (column // 8) & 1
        assert [int(bit) for bit in bits] == [byte >> place & 1 for place in (3, 2, 1, 0)]


@pytest.mark.parametrize("unread", [4, 3, 2, 1])
def test_norms_bound_what_is_unread(unread: int) -> None:
    codes = all_codes()
    low = (codes.astype(np.int64) + 128) & ((1 << unread) - 1)
    squares = ((2 * low - ((1 << unread) - 1)) ** 2).sum(axis=1)
    norms = residual_norms(codes)[4 - unread].astype(np.int64)

    assert (norms**2 >= squares).all()
    assert ((norms - 1) ** 2 < squares).all()


def test_planar_head_equals_the_head_of_the_same_weights() -> None:
    rng = np.random.default_rng(1)
    codes = all_codes()
    x = rng.integers(-127, 128, (2, 192), np.int8)
    scale = np.array([[2**30, 35], [2**31 - 1, 36]], np.int32)
    multiplier = rng.integers(2**30, 2**31 - 1, 9, np.int32)
    rest = (multiplier, np.array([1, 0]))
    planar = (*pack_planes(codes), residual_norms(codes))

    expected = logits_head.reference(x, scale, codes, *rest, shift=21)
    actual = planar_logits_head.reference(x, scale, *planar, *rest, shift=21, top=0)

    np.testing.assert_array_equal(actual, expected, strict=True)


@pytest.mark.parametrize("stored", [{}, {"multiplier": np.array([5, 0, -1], np.int32)}])
def test_bounds_of_sums_bound_logits_or_a_head_is_refused(stored: dict[str, np.ndarray]) -> None:
    sizes = {"T": "T", "K": 64, "V": 3, "H": 32, "B": 8, "R": "logit_rows"}
    names = ("x", "scale", "high", "low", "norms", "multiplier", "rows")
    good = {"multiplier": np.array([5, 0, 1], np.int32)}
    use = Use(
        inputs=names, outputs=("logits",), attributes={}, sizes=sizes, context_length=8, stored=good
    )

    met = {message for fits, message in planar_logits_head.demands(use) if fits}
    kept = {
        message for fits, message in planar_logits_head.demands(replace(use, stored=stored)) if fits
    }

    assert met - kept == {"its multipliers are stored in the bundle, and not negative"}


def test_weights_of_4_bits_are_packed_as_documented() -> None:
    codes = np.random.default_rng(2).integers(-8, 8, (9, 192), np.int8)
    packed = pack_int4(codes)

    assert packed.shape == (9, 96)
    np.testing.assert_array_equal(unpack_int4(packed), codes, strict=True)
    for n, k in ((0, 0), (3, 37), (8, 191), (5, 100)):
        byte = int(packed[n, k // 64 * 32 + k % 32])
        assert byte >> (4 * (k % 64 // 32)) & 15 == codes[n, k] + 8


def test_a_head_of_4_bits_equals_the_head_of_the_same_weights() -> None:
    rng = np.random.default_rng(3)
    codes = rng.integers(-8, 8, (9, 192), np.int8)
    x = rng.integers(-127, 128, (2, 192), np.int8)
    scale = np.array([[2**30, 35], [2**31 - 1, 36]], np.int32)
    rest = (rng.integers(2**30, 2**31 - 1, 9, np.int32), np.array([1, 0]))

    expected = logits_head.reference(x, scale, codes, *rest, shift=21)
    actual = int4_logits_head.reference(x, scale, pack_int4(codes), *rest, shift=21)

    np.testing.assert_array_equal(actual, expected, strict=True)
