"""GroupLinear of many tokens against the reference, in sizes that its blocking cuts up.

Blocks have 64 rows, of which 16 are laid out at once, and 1,024 columns; a pass has 128 tokens.
"""

import ctypes

import numpy as np
import pytest

from edgellm.dtypes import pack_bit_planes
from edgellm.ops import group_linear
from edgellm.runtime import cpu, kernels
from edgellm.runtime.kernels import _objects, simd

VARIANTS = [
    name
    for name in simd.available(cpu.host())
    if name != simd.PORTABLE and kernels.find("GroupLinear", name).variant == name
]
SIZES = (
    (4, 13, 2112, 70, 96),  # planes, tokens, columns, rows, columns of a group
    (4, 131, 256, 65, 64),
    (3, 22, 1056, 64, 1056),
    (2, 37, 1120, 17, 32),
    (1, 40, 256, 64, 128),
    (5, 12, 256, 64, 64),
    (4, 14, 264, 64, 24),
)
SHIFT = 9


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("sizes", SIZES)
def test_products_equal_the_reference(variant: str, sizes: tuple[int, ...]) -> None:
    planes, tokens, columns, rows, size = sizes
    rng = np.random.default_rng(tokens)
    groups = -(-columns // size)
    inputs = (
        rng.integers(-128, 128, (tokens, columns), np.int8),
        pack_bit_planes(rng.integers(0, 2, (planes, rows, columns), np.uint8)),
        rng.integers(-32768, 32768, (groups, rows), np.int16),
        rng.integers(0, 256, (groups, rows), np.uint8),
    )
    expected = group_linear.reference(*inputs, group_size=size, shift=SHIFT)
    kernel = kernels.find("GroupLinear", variant)
    bound = kernel.schema.bind([array.shape for array in inputs])
    prototype = ctypes.CFUNCTYPE(None, ctypes.c_int64, ctypes.c_int64, ctypes.c_int64)
    call = prototype(_objects.kernel_address(kernel))

    for threads in (1, 3):
        acc = np.full((tokens, rows), 99, np.int32)
        addresses = [array.ctypes.data for array in (*inputs, acc)]
        letters = [bound[letter] for letter in kernel.schema.letters]
        row = np.array([0, *addresses, *letters, size, SHIFT], np.int64)
        for thread in range(threads):
            call(row.ctypes.data, thread, threads)

        np.testing.assert_array_equal(acc, expected, strict=True)
