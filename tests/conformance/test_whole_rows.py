"""Products with whole rows of planes, in vectors of 512 bits on any processor.

LLVM makes several of smaller vectors where there are none, so that both ways of ``_whole_rows`` run
wherever the tests do.
"""

from typing import Any

import numpy as np
import pytest
from llvmlite import ir
from numba import njit

from edgellm.dtypes import pack_planes
from edgellm.runtime import cpu
from edgellm.runtime.kernels import simd
from edgellm.runtime.kernels.simd import _unit
from edgellm.runtime.kernels.vector import _whole_rows
from edgellm.runtime.kernels.vector._planes import WHOLE_ROWS

VARIANTS = [name for name in simd.available(cpu.host()) if name != simd.PORTABLE]
ROWS = 13
WEIGHT_BIAS = 128


def wide_unit(*, turns_bits: bool, tokens: int) -> Any:
    """Return a unit of 16 lanes whose products are those of plain LLVM."""
    base = type(simd.find(VARIANTS[0]))

    def dot_codes(_self: object, builder: Any, total: Any, codes: Any, x: Any) -> Any:
        kind = ir.VectorType(_unit.INT32, 64)
        for code, activation in zip(codes, x, strict=True):
            product = builder.mul(builder.zext(code, kind), builder.sext(activation, kind))
            for i in range(4):
                lanes = range(i, kind.count, 4)
                total = builder.add(total, _unit.shuffle(builder, product, product, lanes))
        return total

    turn_bits = _unit.VectorUnit.turn_bits
    methods = {"dot_codes": dot_codes, "turn_bits": turn_bits}
    return type(
        "Wide", (base,), {**methods, "lanes": 16, "turns_bits": turns_bits, "tokens": tokens}
    )()


@pytest.mark.skipif(not VARIANTS, reason="this processor has no vector unit")
@pytest.mark.parametrize(("turns_bits", "tokens"), [(True, 4), (False, 4), (False, 2)])
def test_whole_rows_equal_numpy(*, turns_bits: bool, tokens: int) -> None:
    unit = wide_unit(turns_bits=turns_bits, tokens=tokens)
    way = _whole_rows.way_of(unit)
    tile, arrange = _whole_rows.whole_tile(unit), way.arrange_for(unit)
    step = way.columns_at_once(unit)

    @njit
    def multiply(x: Any, high: Any, low: Any, start: Any, sums: Any) -> None:
        arranged = np.empty(2 * (x.shape[0] + step), np.int8)
        arrange(x, arranged)
        for v in range(0, ROWS, WHOLE_ROWS):
            tile(arranged, high, low, min(v, ROWS - WHOLE_ROWS), start, sums)

    rng = np.random.default_rng(0)
    for columns in (step, step + 64, 2 * step, 2 * step + 64, 3 * step - 64):
        weight = rng.integers(-127, 128, (ROWS, columns)).astype(np.int8)
        x = rng.integers(-128, 128, columns).astype(np.int8)
        high, low = pack_planes(weight)[:2]
        sums = np.zeros(ROWS, np.int32)
        start = np.int32(-WEIGHT_BIAS * x.sum(dtype=np.int64))

        multiply(x, high, low, start, sums)

        np.testing.assert_array_equal(sums, weight.astype(np.int64) @ x)
