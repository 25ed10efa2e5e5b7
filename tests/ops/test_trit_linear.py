import numpy as np
import pytest

from edgellm.dtypes import pack_trits
from edgellm.errors import CheckpointError
from edgellm.ops.trit_linear import reference


@pytest.mark.parametrize("columns", [1, 319, 320, 321, 1001])
def test_product_is_that_of_the_unpacked_weights(columns):
    rng = np.random.default_rng(columns)
    x = rng.integers(-127, 128, (3, columns)).astype(np.int8)
    weight = rng.integers(-1, 2, (5, columns)).astype(np.int8)
    wanted = x.astype(np.int32) @ weight.T.astype(np.int32)
    np.testing.assert_array_equal(reference(x, pack_trits(weight)), wanted, strict=True)


def test_bytes_of_no_weights_are_refused():
    with pytest.raises(CheckpointError, match="holds the byte 243; allowed are 0 to 242"):
        reference(np.ones((1, 320), np.int8), np.full((1, 64), 243, np.uint8))
