import numpy as np
import pytest

from edgellm.dtypes import pack_ternary_columns
from edgellm.errors import CheckpointError
from edgellm.exporters.quantizers import ternary


def test_unpack_gives_the_worked_example_of_transformers():
    """The docstring example of transformers' ``pack_weights``, and one column of eight rows."""
    packed = np.array([[0b10100001, 0b00011000], [0b10010000, 0b00001010]], np.uint8)
    expected = [[0, -1], [-1, 1], [-1, 1], [-1, 1], [1, 0], [0, -1], [1, -1], [1, -1]]
    assert np.concatenate(list(ternary.unpack(packed, 8, "t"))).tolist() == expected

    column = np.array([[0x12], [0x99]], np.uint8)
    codes = np.concatenate(list(ternary.unpack(column, 8, "t")))
    assert codes[:, 0].tolist() == [1, 0, -1, 1, 0, 0, -1, 1]


def test_padding_rows_are_cut():
    packed = np.array([[0x12], [0x19]], np.uint8)  # row 7 is padding, its code 0
    codes = np.concatenate(list(ternary.unpack(packed, 7, "t")))

    assert codes[:, 0].tolist() == [1, 0, -1, 1, 0, 0, -1]


def test_the_code_3_names_its_row():
    packed = np.array([[0x12, 0x12], [0x99, 0x99 | 0b11 << 2]], np.uint8)
    with pytest.raises(CheckpointError, match="t: the code of row 3, column 1 is 3"):
        list(ternary.unpack(packed, 8, "t"))


def test_masters_are_rounded_by_their_mean_half_to_even():
    master = np.array([[0.5, -0.5, 1.5, -1.5], [1.0, 1.0, -1.0, 1.0]], np.float32)

    def blocks():
        return [master[:1], master[1:]]

    scale = ternary.master_scale(blocks)
    codes = np.concatenate(list(ternary.ternarize(blocks, scale)))
    assert scale == 1.0
    assert codes.tolist() == [[0, 0, 1, -1], [1, 1, -1, 1]]


def test_a_tiny_master_has_the_smallest_scale():
    assert ternary.master_scale(lambda: [np.full((1, 4), 1e-9, np.float32)]) == np.float32(1e-5)


@pytest.mark.parametrize("code", [-1, 0, 1])
def test_one_code_everywhere_is_refused(code):
    with pytest.raises(CheckpointError, match=f"t: all weights are {code}"):
        list(ternary.check_codes([np.full((2, 3), code, np.int8)], "t"))


@pytest.mark.parametrize("step", [1, 50, 64, 100, 256])
def test_columns_are_packed_from_blocks_of_any_size(step):
    weight = np.random.default_rng(0).integers(-1, 2, (256, 9)).astype(np.int8)
    blocks = (weight[first : first + step] for first in range(0, 256, step))
    packed = list(ternary.pack_columns(blocks, (2, 9, 32)))
    np.testing.assert_array_equal(np.stack(packed), pack_ternary_columns(weight, 2), strict=True)
