"""Scales of rows, sums of signed powers of two, as LLVM: written before many blocks need them.

The terms of a group are far from those of the next in memory. Read between the planes, a few lines
at a time, they take a third of the time though they are a tenth of the bytes; so they are read by
themselves, from as long pieces of memory as there are.
"""

# mypy: disable-error-code="no-untyped-call,untyped-decorator"
# Numba's internals have no types.

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic, register_jitable

from edgellm.runtime.kernels._bit_planes import ROWS
from edgellm.runtime.kernels._jit import PART_POLICY
from edgellm.runtime.kernels._scalar import Int
from edgellm.runtime.kernels.simd._unit import (
    INT8,
    INT16,
    INT64,
    Builder,
    Context,
    Intrinsic,
    Type,
    Value,
    Values,
    VectorUnit,
    call,
    constant_bytes,
    load_vector,
    move,
    splat,
)
from edgellm.runtime.kernels.vector._tiles import bytes_of, open_arrays, prefetch

PAIR = 2
"""Blocks that one token takes together, a group of each. (A server of 2023, one core, from memory:
with 4 it takes 1.03 to 1.09 times as long, with 8 up to 1.19 times.)"""
SCALE_BYTES = 1 << 18
"""For the scales of some blocks: a part of the second cache. (The same server, 4096 x 4096: with
half of it 1.07 times as long, with twice as much 0.98 times.)"""
BLOCK_BYTES = 2 * ROWS
"""Of a block's scales of one plane of a group."""
LARGEST_SCALE = 32_767
POWERS = (0, *(1 << exponent for exponent in range(15)))
"""What the lower four bits of a term stand for."""
TERM_BYTES = len(POWERS)

Terms = npt.NDArray[np.uint8]
Scales = npt.NDArray[np.int8]


def scale_filler(unit: VectorUnit) -> Callable[..., bool]:
    """Return ``fill_scales(terms, (first, last), scales)``, for the blocks of rows in between.

    It tells whether the scales fit in 16 bits. Of each PAIR of blocks they lie group by group,
    vector by vector of rows, plane by plane: of a vector the even rows, then the odd. terms are
    (G, P, S, N).
    """
    fill = _filler(unit)

    @register_jitable(**PART_POLICY)
    def fill_scales(terms: Terms, blocks: tuple[Int, Int], scales: Scales) -> bool:
        first, last = blocks
        largest = np.int64(fill(terms, first * ROWS, (last - first) * ROWS, scales))
        return (
            largest < TERM_BYTES
            and terms.shape[2] << max(largest - 1, np.int64(0)) <= LARGEST_SCALE
        )

    return fill_scales


def _filler(unit: VectorUnit) -> Intrinsic:
    """Return the intrinsic ``fill(terms, row, rows, scales)``: the largest term, signs aside."""

    def generate(context: Context, builder: Builder, signature: Type, args: Values) -> Value:
        kinds = types.void(signature.args[0], signature.args[3])
        arrays = open_arrays(context, builder, kinds, [args[0], args[3]])
        return _Scales(unit, builder, arrays).generate(builder, args[1], args[2])

    @intrinsic
    def fill(_: Context, terms: Type, row: Type, rows: Type, scales: Type) -> Intrinsic:
        return types.uint8(terms, row, rows, scales), generate

    return fill


class _Scales:
    """The scales of some rows."""

    def __init__(self, unit: VectorUnit, builder: Builder, arrays: Values) -> None:
        self._unit, self._words = unit, ir.VectorType(INT16, 2 * unit.lanes)
        self._terms, self._scales = (bytes_of(builder, array) for array in arrays)
        self._groups, self._planes, self._count, _ = cgutils.unpack_tuple(builder, arrays[0].shape)
        strides = cgutils.unpack_tuple(builder, arrays[0].strides)
        self._group_bytes, self._plane_bytes, self._term_bytes, _ = strides
        self._width = 4 * self._unit.lanes
        self._largest = cgutils.alloca_once(builder, self._unit.bytes_type)

    def generate(self, builder: Builder, row: Value, rows: Value) -> Value:
        """Write the scales of rows from ``row`` on."""
        builder.store(ir.Constant(self._unit.bytes_type, None), self._largest)
        step = INT64(self._width)
        with (
            cgutils.for_range(builder, self._groups) as groups,
            cgutils.for_range(builder, self._planes) as planes,
        ):
            offset = builder.mul(groups.index, self._group_bytes)
            offset = builder.add(offset, builder.mul(planes.index, self._plane_bytes))
            at = move(builder, self._terms, builder.add(offset, row))
            with cgutils.for_range_slice(builder, INT64(0), rows, step, INT64) as (done, _):
                place = self._place(builder, groups.index, planes.index, done)
                self._write(builder, move(builder, at, done), place)
        name = f"llvm.vector.reduce.umax.v{self._width}i8"
        return call(builder, name, INT8, [builder.load(self._largest)])

    def _place(self, builder: Builder, group: Value, plane: Value, row: Value) -> Value:
        """Return where the scales of a vector of rows are."""
        together = INT64(PAIR * ROWS)
        pairs = builder.mul(builder.udiv(row, together), self._groups)
        before = builder.mul(builder.add(pairs, group), INT64(PAIR * ROWS // self._width))
        vector = builder.udiv(builder.urem(row, together), INT64(self._width))
        number = builder.mul(builder.add(before, vector), self._planes)
        number = builder.add(number, plane)
        return move(builder, self._scales, builder.mul(number, INT64(2 * self._width)))

    def _write(self, builder: Builder, at: Value, place: Value) -> None:
        """Write a pair of vectors; begin to read the terms of the next plane."""
        words = self._words
        sums = [cgutils.alloca_once(builder, words) for _ in range(2)]
        for total in sums:
            builder.store(ir.Constant(words, None), total)
        with cgutils.for_range(builder, self._count) as loop:
            own = move(builder, at, builder.mul(loop.index, self._term_bytes))
            prefetch(builder, move(builder, own, self._plane_bytes))
            terms = load_vector(builder, own, self._unit.bytes_type)
            for total, part in zip(sums, self._powers(builder, terms), strict=True):
                builder.store(builder.add(builder.load(total), part), total)
        for i, total in enumerate(sums):
            out = move(builder, place, INT64(self._width * i))
            builder.store(builder.load(total), builder.bitcast(out, words.as_pointer()), align=1)

    def _powers(self, builder: Builder, terms: Value) -> list[Value]:
        """Return the signed powers of two of even bytes, and of odd."""
        kind, words = terms.type, self._words
        magnitudes = builder.and_(terms, splat(kind, 127))
        name = f"llvm.umax.v{kind.count}i8"
        largest = call(builder, name, kind, [builder.load(self._largest), magnitudes])
        builder.store(largest, self._largest)
        keys = builder.and_(terms, splat(kind, len(POWERS) - 1))
        low, high = (self._look_up(builder, part, keys) for part in (0, 8))
        eight, fifteen = splat(words, 8), splat(words, 15)
        lower, upper = splat(words, 0x00FF), splat(words, 0xFF00)
        even = builder.or_(builder.and_(low, lower), builder.shl(high, eight))
        odd = builder.or_(builder.lshr(low, eight), builder.and_(high, upper))
        pairs = builder.bitcast(terms, words)
        signs = (builder.ashr(builder.shl(pairs, eight), fifteen), builder.ashr(pairs, fifteen))
        return [
            builder.sub(builder.xor(power, sign), sign)
            for power, sign in zip((even, odd), signs, strict=True)
        ]

    def _look_up(self, builder: Builder, part: int, keys: Value) -> Value:
        """Return the eight bits of POWERS from ``part`` on, as pairs of bytes."""
        entries = [power >> part & 255 for power in POWERS]
        table = constant_bytes(entries * (keys.type.count // len(entries)))
        return builder.bitcast(self._unit.shuffle_bytes(builder, table, keys), self._words)
