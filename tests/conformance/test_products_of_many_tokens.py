"""Products of many tokens against the references, in sizes that their blocking cuts up.

Panels of AMX have 32 rows, spans 10 blocks of 64 columns; 256 tokens and 4,096 columns are laid out
at once. Where bytes are multiplied in pairs, 64 rows of ternary weights are looked up, of four
tokens together; tables are of 32 tokens and 1,024 columns, of 64 and 512 where rows are turned, or
of fewer and up to 8,192. Weights by input are for two tokens, up to 2,560 outputs at a time.
"""

import ctypes

import numpy as np
import pytest

from edgellm import ops
from edgellm.dtypes import TERNARY_5TRIT, pack_ternary, pack_ternary_columns
from edgellm.runtime import cpu, kernels
from edgellm.runtime.kernels import _objects, simd
from edgellm.ternary_layouts import TERNARY_LAYOUTS
from edgellm.ternary_planes import pack_ternary_planes

OPERATORS = (
    "BitLinear",
    "ColumnBitLinear",
    "GatedBitLinear",
    "GatedTritLinear",
    "Int8Linear",
    "LookUpBitLinear",
    "TritLinear",
)
CASES = [
    (variant, op_type)
    for variant in simd.available(cpu.host())
    if variant != simd.PORTABLE
    for op_type in OPERATORS
    if kernels.find(op_type, variant).variant == variant
]
SIZES = (
    (16, 64, 64),  # tokens, columns, rows
    (17, 30, 64),
    (33, 200, 192),
    (31, 1344, 128),
    (300, 1344, 128),
    (257, 4250, 64),
    (5, 8300, 64),
)


def draw_inputs(op_type: str, tokens: int, columns: int, rows: int) -> list[np.ndarray]:
    rng = np.random.default_rng(tokens)
    x = rng.integers(-127, 128, (tokens, columns), np.int8)
    weight = rng.integers(-1, 2, (rows, columns), np.int8)
    match op_type:
        case "BitLinear":
            return [x, pack_ternary(weight)]
        case "LookUpBitLinear":
            return [x, pack_ternary_planes(weight)]
        case "TritLinear":
            return [x, TERNARY_LAYOUTS[TERNARY_5TRIT].pack(weight)]
        case "ColumnBitLinear":
            return [x, pack_ternary_columns(weight, 1 if rows % 128 else 2)]
        case "GatedBitLinear":
            return [x, pack_ternary(weight), rng.integers(-2, 3, (tokens, rows), np.int32)]
        case "GatedTritLinear":
            packed = TERNARY_LAYOUTS[TERNARY_5TRIT].pack(weight)
            return [x, packed, rng.integers(-2, 3, (tokens, rows), np.int32)]
        case _:
            return [x, rng.integers(-128, 128, (rows, columns), np.int8)]


def check(variant: str, op_type: str, inputs: list[np.ndarray], rows: int) -> None:
    kernel = kernels.find(op_type, variant)
    sizes = kernel.schema.bind([array.shape for array in inputs])
    prototype = ctypes.CFUNCTYPE(None, ctypes.c_int64, ctypes.c_int64, ctypes.c_int64)
    call = prototype(_objects.kernel_address(kernel))
    (module,) = (module for module in ops.modules() if module.SCHEMA.name == op_type)
    expected = module.reference(*inputs)

    for threads in (1, 3):
        acc = np.full((len(inputs[0]), rows), 99, np.int32)
        addresses = [array.ctypes.data for array in (*inputs, acc)]
        letters = [sizes[letter] for letter in kernel.schema.letters]
        row = np.array([0, *addresses, *letters], np.int64)
        for thread in range(threads):
            call(row.ctypes.data, thread, threads)

        np.testing.assert_array_equal(acc, expected, strict=True)


@pytest.mark.parametrize(("variant", "op_type"), CASES)
@pytest.mark.parametrize(("tokens", "columns", "rows"), SIZES)
def test_products_equal_the_reference(
    variant: str, op_type: str, tokens: int, columns: int, rows: int
) -> None:
    check(variant, op_type, draw_inputs(op_type, tokens, columns, rows), rows)


@pytest.mark.parametrize(("variant", "op_type"), CASES)
@pytest.mark.parametrize("sign", [-1, 1])
def test_the_largest_sums(variant: str, op_type: str, sign: int) -> None:
    inputs = draw_inputs(op_type, 16, 4224, 64)
    inputs[0][:] = -128
    weight = np.full((64, 4224), sign, np.int8)
    match op_type:
        case "BitLinear" | "GatedBitLinear":
            inputs[1] = pack_ternary(weight)
        case "LookUpBitLinear":
            inputs[1] = pack_ternary_planes(weight)
        case "TritLinear" | "GatedTritLinear":
            inputs[1] = TERNARY_LAYOUTS[TERNARY_5TRIT].pack(weight)
        case "ColumnBitLinear":
            inputs[1] = pack_ternary_columns(weight, 1)
        case _:
            inputs[1] = np.where(weight < 0, np.int8(127), np.int8(-128))

    check(variant, op_type, inputs, 64)
