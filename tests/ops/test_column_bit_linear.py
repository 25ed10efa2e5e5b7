import numpy as np
import pytest

from edgellm.dtypes import pack_ternary_columns, unpack_ternary_columns
from edgellm.errors import CheckpointError
from edgellm.ops.column_bit_linear import SCHEMA, reference


@pytest.mark.parametrize(("outputs", "strips"), [(64, 1), (128, 2), (192, 1), (1024, 2)])
def test_product_is_that_of_the_unpacked_weights(outputs, strips):
    rng = np.random.default_rng(outputs)
    x = rng.integers(-127, 128, (3, 37)).astype(np.int8)
    weight = rng.integers(-1, 2, (outputs, 37)).astype(np.int8)
    packed = pack_ternary_columns(weight, strips)

    assert packed.shape == (strips, 37, outputs // strips // 4)
    np.testing.assert_array_equal(unpack_ternary_columns(packed), weight, strict=True)
    wanted = x.astype(np.int32) @ weight.T.astype(np.int32)
    np.testing.assert_array_equal(reference(x, packed), wanted, strict=True)


def test_a_weight_is_where_the_layout_says():
    """Strip 1 begins at output 64; output 16p + b of its block is in bits 2p of byte b."""
    weight = np.full((128, 5), -1, np.int8)
    weight[64 + 16 * 2 + 9, 3] = 1
    packed = pack_ternary_columns(weight, 2)

    assert packed[1, 3, 9] == 2 << 4
    assert packed.sum() == 2 << 4


def test_code_three_is_refused():
    with pytest.raises(CheckpointError, match="code 3"):
        reference(np.ones((1, 2), np.int8), np.full((1, 2, 16), 0b11, np.uint8))


def test_the_number_of_outputs_follows_from_the_weight():
    assert SCHEMA.infer([("tokens", 37), (2, 37, 48)]) == [("tokens", 384)]
