import numpy as np
import pytest

from edgellm.ops.look_up_bit_linear import reference
from edgellm.ternary_planes import (
    pack_ternary_planes,
    ternary_planes_shape,
    unpack_ternary_planes,
)


@pytest.mark.parametrize("columns", [1, 7, 8, 9, 70])
def test_product_is_that_of_the_unpacked_weights(columns: int) -> None:
    rng = np.random.default_rng(columns)
    x = rng.integers(-127, 128, (3, columns)).astype(np.int8)
    weight = rng.integers(-1, 2, (128, columns)).astype(np.int8)
    packed = pack_ternary_planes(weight)

    wanted = x.astype(np.int32) @ weight.T.astype(np.int32)
    np.testing.assert_array_equal(reference(x, packed), wanted, strict=True)
    np.testing.assert_array_equal(unpack_ternary_planes(packed, columns), weight, strict=True)
    assert packed.shape == ternary_planes_shape(128, columns)


def test_where_a_weight_lies() -> None:
    weight = np.full((64, 16), -1, np.int8)
    weight[3, 9], weight[3, 10] = 0, 1

    packed = pack_ternary_planes(weight)

    assert packed[0, 1, 3].tolist() == [0b110, 0b100]
    assert packed.sum() == 0b110 + 0b100
