"""Attention of many tokens against the reference, in sizes that its blocks and panels cut up.

Blocks have up to 256 queries, panels 32 keys or columns; values are read 1,024 rows at a time. With
AVX2 panels have 16, and values are read 512 rows at a time.
"""

import ctypes
import math

import numpy as np
import pytest

from edgellm.ops import attention, int4_attention
from edgellm.ops._examples import dyadic
from edgellm.runtime import cpu, kernels
from edgellm.runtime.kernels import Kernel, _objects, simd

REFERENCES = {"Attention": attention.reference, "Int4Attention": int4_attention.reference}
KERNELS = [
    kernels.find(op_type, name)
    for op_type in REFERENCES
    for name in simd.available(cpu.host())
    if name != simd.PORTABLE and kernels.find(op_type, name).variant == name
]
each_kernel = pytest.mark.parametrize("kernel", KERNELS, ids=lambda kernel: kernel.symbol)
SIZES = (
    (16, 16, 1, 1, 64, 0),  # tokens, length, heads of the cache, queries of each, dim, window
    (17, 90, 2, 3, 64, 0),
    (70, 70, 1, 4, 128, 0),
    (33, 1100, 1, 2, 64, 0),
    (40, 200, 2, 1, 192, 37),
    (100, 130, 1, 5, 64, 50),
    (16, 40, 1, 20, 512, 0),
    (4, 27, 2, 3, 64, 5),
    (7, 530, 3, 1, 128, 0),
)


def draw_inputs(
    op_type: str, tokens: int, length: int, heads: int, share: int, dim: int
) -> tuple[np.ndarray, ...]:
    """Return inputs of which the absmax differ by up to 2^8, and whose weights are not all 0.

    Codes are all that a byte can hold.
    """
    rng = np.random.default_rng(length)
    absmax = [
        (rng.integers(2**17, 2**18, (length, heads)) << rng.integers(0, 8, (length, heads)))
        for _ in range(2)
    ]
    low, high, shape = -128, 128, (length, heads, dim)
    dtype: type[np.integer] = np.int8
    if op_type == "Int4Attention":
        low, high, shape, dtype = 0, 256, (length, heads, dim // 2), np.uint8
    key, value = (rng.integers(low, high, shape).astype(dtype) for _ in range(2))
    query = rng.integers(-(2**18), 2**18, (tokens, heads * share * dim))
    query >>= rng.integers(0, 12, (tokens, 1))
    key_absmax, value_absmax = (one.astype(np.int32) for one in absmax)
    return query.astype(np.int32), key, key_absmax, value, value_absmax


def attributes(dim: int, window: int) -> tuple[int, int, int]:
    mantissa, exponent = dyadic(math.log2(math.e) / math.sqrt(dim) / 127**2 * 2.0**-36)
    return mantissa, exponent, window


def run(
    kernel: Kernel, inputs: tuple[np.ndarray, ...], values: tuple[int, ...], threads: int
) -> np.ndarray:
    sizes = kernel.schema.bind([array.shape for array in inputs])
    y = np.full(inputs[0].shape, 99, np.int64)
    prototype = ctypes.CFUNCTYPE(None, ctypes.c_int64, ctypes.c_int64, ctypes.c_int64)
    call = prototype(_objects.kernel_address(kernel))
    addresses = [array.ctypes.data for array in (*inputs, y)]
    letters = [sizes[letter] for letter in kernel.schema.letters]
    row = np.array([0, *addresses, *letters, *values], np.int64)
    for thread in range(threads):
        call(row.ctypes.data, thread, threads)
    return y


@each_kernel
@pytest.mark.parametrize("sizes", SIZES)
def test_prompts_equal_the_reference(kernel: Kernel, sizes: tuple[int, ...]) -> None:
    tokens, length, heads, share, dim, window = sizes
    inputs = draw_inputs(kernel.op_type, tokens, length, heads, share, dim)
    mantissa, exponent, _ = values = attributes(dim, window)
    scaling = {"scaling_mantissa": mantissa, "scaling_exponent": exponent}
    expected = REFERENCES[kernel.op_type](*inputs, **scaling, window=window)

    for threads in (1, 3):
        y = run(kernel, inputs, values, threads)

        np.testing.assert_array_equal(y, expected, strict=True)


@each_kernel
def test_a_prompt_is_what_its_tokens_are_one_by_one(kernel: Kernel) -> None:
    query, *cache = draw_inputs(kernel.op_type, 24, 60, 2, 2, 64)
    values = attributes(64, 0)

    together = run(kernel, (query, *cache), values, 1)

    for t in range(24):
        seen = [np.ascontiguousarray(part[: 37 + t]) for part in cache]
        alone = run(kernel, (query[t : t + 1].copy(), *seen), values, 1)
        np.testing.assert_array_equal(alone[0], together[t])


@each_kernel
def test_the_largest_sums_fit(kernel: Kernel) -> None:
    """Of equal scores, values that are the least code, with the largest scale there is."""
    tokens, length, dim = 16, 1100, 64
    query = np.full((tokens, dim), 2**20, np.int32)
    key, value = np.zeros((length, 1, dim), np.int8), np.full((length, 1, dim), -128, np.int8)
    if kernel.op_type == "Int4Attention":
        key, value = (np.full((length, 1, dim // 2), pair, np.uint8) for pair in (0x88, 0))
    absmax = np.full((length, 1), 2**31 - 1, np.int32)
    mantissa, exponent, window = values = attributes(dim, 0)
    scaling = {"scaling_mantissa": mantissa, "scaling_exponent": exponent}
    inputs = query, key, absmax, value, absmax
    expected = REFERENCES[kernel.op_type](*inputs, **scaling, window=window)

    y = run(kernel, inputs, values, 1)

    np.testing.assert_array_equal(y, expected, strict=True)
