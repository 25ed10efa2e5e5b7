import numpy as np
import pytest

from edgellm.dtypes import pack_ternary
from edgellm.errors import CheckpointError
from edgellm.ops.bit_linear import reference


@pytest.mark.parametrize("columns", [1, 63, 64, 65, 172])
def test_product_is_that_of_the_unpacked_weights(columns):
    rng = np.random.default_rng(columns)
    x = rng.integers(-127, 128, (3, columns)).astype(np.int8)
    weight = rng.integers(-1, 2, (5, columns)).astype(np.int8)
    wanted = x.astype(np.int32) @ weight.T.astype(np.int32)
    np.testing.assert_array_equal(reference(x, pack_ternary(weight)), wanted, strict=True)


def test_code_three_is_refused():
    with pytest.raises(CheckpointError, match="code 3"):
        reference(np.ones((1, 64), np.int8), np.full((1, 16), 0b11, np.uint8))
