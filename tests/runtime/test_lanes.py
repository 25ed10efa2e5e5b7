"""Rows of int32 on vector units: what decides that 32 bits are enough, and the order of keys."""

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from edgellm.ops.encoder_attention import MAX_HALVINGS, WEIGHT_BITS
from edgellm.runtime import kernels
from edgellm.runtime.kernels._scalar import INT32_MAX, round_shift
from edgellm.runtime.kernels.simd._unit import BLOCK, ROW_OPERATORS
from edgellm.runtime.kernels.vector._attention_lanes import FARTHEST, far_from, key_of
from edgellm.runtime.kernels.vector._requantized_rows import fits

MANTISSAS = st.integers(2**30, 2**31 - 1)


@pytest.mark.parametrize("op_type", sorted(ROW_OPERATORS))
@pytest.mark.parametrize(
    ("variant", "expected"),
    [
        ("avx512_amx", "avx512_vnni"),
        ("avx512_vnni", "avx512_vnni"),
        ("avx2", "avx2"),
        ("neon_dotprod", "portable"),
    ],
)
def test_units_without_rows_of_int32_run_the_portable_kernel(
    op_type: str, variant: str, expected: str
) -> None:
    assert kernels.find(op_type, variant).variant == expected


def test_rows_of_scores_are_of_all_keys() -> None:
    assert sorted(key_of(row) for row in range(BLOCK)) == list(range(BLOCK))


@given(MANTISSAS, st.integers(1, 62))
@example(2**30, 1)
@example(2**31 - 1, 62)
def test_what_is_far_has_no_weight_and_32_bits(mantissa: int, shift: int) -> None:
    far = int(far_from((mantissa, shift)))
    halvings = round_shift(far * mantissa, shift)

    assert far == FARTHEST or halvings >= MAX_HALVINGS << WEIGHT_BITS
    assert (far * mantissa + (1 << (shift - 1))) >> (shift - 1) < 2**32


@given(st.integers(0, 2**31), MANTISSAS, st.integers(1, 62), st.integers(0, 2**33))
def test_what_fits_is_not_saturated(most: int, factor: int, total: int, others: int) -> None:
    largest = round_shift(most * factor, total) + others

    assert largest <= INT32_MAX or not fits(np.int64(most), total, np.int64(others))
