"""Layouts of ternary weights give back what was packed, and refuse what stands for nothing."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgellm.dtypes import TERNARY_2BIT, TERNARY_5TRIT
from edgellm.errors import CheckpointError
from edgellm.ternary_layouts import TERNARY_LAYOUTS
from edgellm.ternary_planes import TERNARY_PLANES

LAYOUTS = list(TERNARY_LAYOUTS.values())


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.name)
@given(blocks=st.integers(1, 4), columns=st.integers(1, 1400), seed=st.integers(0, 99))
def test_unpacking_gives_what_was_packed(layout, blocks, columns, seed):
    rows = blocks * layout.block_rows
    weight = np.random.default_rng(seed).integers(-1, 2, (rows, columns)).astype(np.int8)
    packed = layout.pack(weight)

    assert layout.fits(rows)
    assert packed.shape == layout.shape(rows, columns)
    assert packed.shape[0] == blocks
    assert packed.nbytes == layout.size_bytes(rows, columns)
    assert not layout.damaged(packed).any()
    np.testing.assert_array_equal(layout.unpack(packed, columns), weight, strict=True)


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.name)
def test_blocks_of_rows_are_packed_one_by_one(layout):
    rows = 3 * layout.block_rows
    weight = np.random.default_rng(1).integers(-1, 2, (rows, 330)).astype(np.int8)
    parts = [layout.pack(part) for part in np.split(weight, 3)]

    np.testing.assert_array_equal(np.concatenate(parts), layout.pack(weight), strict=True)


def test_only_whole_blocks_fit():
    assert {layout.name: layout.fits(65) for layout in LAYOUTS} == {
        TERNARY_2BIT: True, TERNARY_5TRIT: True, TERNARY_PLANES: False
    }  # fmt: skip


@pytest.mark.parametrize("name", [TERNARY_2BIT, TERNARY_5TRIT])
def test_bytes_that_stand_for_nothing_are_found_and_refused(name):
    layout = TERNARY_LAYOUTS[name]
    every_byte = np.arange(256, dtype=np.uint8).reshape(1, -1)
    wrong = np.flatnonzero(layout.damaged(every_byte)[0])
    sound = {0b11 << 2 * place for place in range(4)}

    if name == TERNARY_5TRIT:
        assert wrong.tolist() == list(range(243, 256))
    else:
        assert len(wrong) == 256 - 3**4
        assert sound <= set(wrong.tolist())
    columns = next(k for k in range(1, 2000) if layout.size_bytes(1, k) == 256)
    with pytest.raises(CheckpointError, match="packed ternary row 0 holds the"):
        layout.unpack(every_byte, columns)


def test_planes_have_no_byte_that_stands_for_nothing():
    layout = TERNARY_LAYOUTS[TERNARY_PLANES]
    every_byte = np.arange(64 * 2 * 8, dtype=np.uint8).reshape(1, 8, 64, 2)

    assert not layout.damaged(every_byte).any()
    assert set(np.unique(layout.unpack(every_byte, 64))) == {-1, 0, 1}
