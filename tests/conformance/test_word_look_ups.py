"""Look-ups of words against the reference: with the units that have them, and in plain LLVM.

LLVM makes several of smaller vectors where there are none of 512 bits, so that this runs wherever
the tests do, whether or not it is faster there.
"""

from typing import Any

import numpy as np
import pytest
from llvmlite import ir
from numba import njit
from numba.core import cgutils

from edgellm.dtypes import pack_bit_planes
from edgellm.ops import shift_add_linear
from edgellm.ops._shift_alphas import MAX_EXPONENT, MAX_TERMS, pack_nibbles
from edgellm.runtime import cpu
from edgellm.runtime.kernels import _jit, simd
from edgellm.runtime.kernels.simd import _unit
from edgellm.runtime.kernels.vector._word_look_ups import MOST_COLUMNS, word_products

VARIANTS = [name for name in simd.available(cpu.host()) if name != simd.PORTABLE]
OWN = [name for name in VARIANTS if simd.find(name).looks_up_words]
SIZES = (
    (1, 1, 16, 64, 16),  # planes, tokens, columns, rows, columns of a group
    (2, 1, 80, 128, 48),
    (3, 2, 1056, 200, 1056),
    (4, 5, 512, 256, 128),
    (4, 1, 4096, 64, 64),
    (3, 3, MOST_COLUMNS, 64, 4096),
)
SHIFT = 9
TERMS = MAX_TERMS
LARGEST = [MAX_EXPONENT + 1] + [1] * (TERMS - 1)
"""The nibbles of the largest alpha: 2^14 + 2^12 and so on."""


def look_up(builder: Any, tables: Any, keys: Any, within: int) -> Any:
    """Look elements up one by one: in the first entries, or each 16 bytes in those there."""
    kind, element = keys.type, keys.type.element.as_pointer()
    size = within or len(tables) * tables[0].type.count
    table = builder.alloca(ir.ArrayType(tables[0].type, len(tables)))
    for i, part in enumerate(tables):
        builder.store(part, builder.gep(table, [_unit.INT32(0), _unit.INT32(i)]))
    entries = builder.bitcast(table, element)
    places = [builder.alloca(kind) for _ in range(2)]
    builder.store(keys, places[0])
    source, target = (builder.bitcast(place, element) for place in places)
    with cgutils.for_range(builder, _unit.INT64(kind.count)) as loop:
        key = builder.load(builder.gep(source, [loop.index]))
        at = builder.zext(builder.and_(key, kind.element(size - 1)), _unit.INT64)
        if within:
            at = builder.add(at, builder.and_(loop.index, _unit.INT64(-within)))
        entry = builder.load(builder.gep(entries, [at]))
        builder.store(entry, builder.gep(target, [loop.index]))
    return builder.load(places[1])


def plain_unit() -> Any:
    """Return a unit of 16 lanes whose look-ups and products are those of plain LLVM."""
    base = type(simd.find(VARIANTS[0]))

    def choose(builder: Any, tables: Any, keys: Any, within: int) -> Any:
        kinds = [table.type for table in tables]
        name = f"choose_{len(tables)}_of_{keys.type.count}_within_{within}"
        function = builder.module.globals.get(name)
        if function is None:
            kind = ir.FunctionType(keys.type, [*kinds, keys.type])
            function = ir.Function(builder.module, kind, name)
            function.linkage = "internal"
            function.attributes.add("noinline")
            body = ir.IRBuilder(function.append_basic_block())
            body.ret(look_up(body, function.args[:-1], function.args[-1], within))
        return builder.call(function, [*tables, keys])

    def dot_int16(_self: object, builder: Any, total: Any, a: Any, b: Any) -> Any:
        wide = ir.VectorType(_unit.INT32, 32)
        products = builder.mul(builder.sext(a, wide), builder.sext(b, wide))
        for first in (0, 1):
            part = _unit.shuffle(builder, products, products, range(first, 32, 2))
            total = builder.add(total, part)
        return total

    methods = {
        "look_up_words": lambda _self, builder, tables, keys: choose(builder, tables, keys, 0),
        "shuffle_bytes": lambda _self, builder, table, keys: choose(builder, [table], keys, 16),
        "dot_int16": dot_int16,
        "widen": _unit.VectorUnit.widen,
    }
    return type("Plain", (base,), {**methods, "lanes": 16})()


def compiled(unit: Any) -> Any:
    """Return the products of a unit."""
    _jit._share_parts(word_products)
    products = word_products(unit)

    @njit
    def multiply(x: Any, planes: Any, alphas: Any, acc: Any, rows: Any, numbers: Any) -> Any:
        return products(x, planes, alphas, acc, rows, numbers)

    return multiply


@pytest.mark.skipif(not VARIANTS, reason="this processor has no vector unit")
@pytest.mark.parametrize("variant", [*OWN, "plain"])
def test_products_equal_the_reference(variant: str) -> None:
    multiply = compiled(plain_unit() if variant == "plain" else simd.find(variant))
    rng = np.random.default_rng(0)
    for planes, tokens, columns, rows, size in SIZES:
        x = rng.integers(-128, 128, (tokens, columns), np.int8)
        x[-1] = -128
        bits = rng.integers(0, 2, (planes, rows, columns), np.uint8)
        bits[:, 0], bits[:, 1] = 0, 1
        nibbles = rng.integers(0, 16, (-(-columns // size), planes, TERMS, rows), np.uint8)
        nibbles[..., :2] = np.array(LARGEST)[:, None]
        constants = pack_bit_planes(bits), pack_nibbles(nibbles)
        expected = shift_add_linear.reference(
            x, *constants, group_size=size, shift=SHIFT, terms=TERMS
        )
        acc = np.full((tokens, rows), 99, np.int32)
        whole = rows // 64 * 64
        for begin, end in ((0, 17), (17, whole - 3), (whole - 3, rows)):
            done = multiply(x, *constants, acc, (begin, end), (size, SHIFT, TERMS))
            assert done == max(begin, min(end, whole))
            acc[:, done:end] = expected[:, done:end]

        np.testing.assert_array_equal(acc, expected, strict=True)


@pytest.mark.skipif(not OWN, reason="no unit of this processor looks up words")
def test_other_planes_are_left_to_others() -> None:
    multiply = compiled(simd.find(OWN[0]))
    for planes, columns, size in (
        (5, 64, 64),
        (4, 72, 64),
        (4, 72, 24),
        (2, MOST_COLUMNS + 16, 64),
    ):
        x = np.ones((1, columns), np.int8)
        packed = pack_bit_planes(np.ones((planes, 64, columns), np.uint8))
        alphas = pack_nibbles(np.ones((-(-columns // size), planes, TERMS, 64), np.uint8))
        acc = np.full((1, 64), 99, np.int32)

        assert multiply(x, packed, alphas, acc, (3, 64), (size, SHIFT, TERMS)) == 3
        assert (acc == 99).all()
