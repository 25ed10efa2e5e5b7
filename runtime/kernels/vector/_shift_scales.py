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
    shuffle,
    splat,
)
from edgellm.runtime.kernels.vector._plane_blocks import PAIR
from edgellm.runtime.kernels.vector._tiles import bytes_of, open_arrays, prefetch

SCALE_BYTES = 1 << 18
"""For the scales of some blocks: a part of the second cache. (The same server, 4096 x 4096: with
half of it 1.07 times as long, with twice as much 0.98 times.)"""
BLOCK_BYTES = 2 * ROWS
"""Of a block's scales of one plane of a group."""
LARGEST_SCALE = 32_767
POWERS = (0, *(1 << exponent for exponent in range(15)))
"""What the lower four bits of a term stand for."""
TERM_BYTES = len(POWERS)
EVEN_FIRST = (*range(0, 16, 2), *range(1, 16, 2))

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
        """Write the scales of rows, whole blocks, from ``row`` on."""
        builder.store(ir.Constant(self._unit.bytes_type, None), self._largest)
        blocks = builder.udiv(rows, INT64(ROWS))
        plane_bytes, block_bytes = INT64(2 * self._width), self._of_planes(builder, BLOCK_BYTES)
        group_bytes = builder.mul(block_bytes, INT64(PAIR))
        pair_bytes = builder.mul(group_bytes, self._groups)
        with (
            cgutils.for_range(builder, self._groups) as groups,
            cgutils.for_range(builder, self._planes) as planes,
        ):
            at = move(builder, self._terms, builder.mul(groups.index, self._group_bytes))
            at = move(builder, at, builder.mul(planes.index, self._plane_bytes))
            at = move(builder, at, row)
            out = move(builder, self._scales, builder.mul(groups.index, group_bytes))
            out = move(builder, out, builder.mul(planes.index, plane_bytes))
            with cgutils.for_range(builder, blocks) as loop:
                own = move(builder, at, builder.mul(loop.index, INT64(ROWS)))
                pair = builder.mul(builder.udiv(loop.index, INT64(PAIR)), pair_bytes)
                block = builder.mul(builder.urem(loop.index, INT64(PAIR)), block_bytes)
                self._write(builder, own, move(builder, out, builder.add(pair, block)))
        name = f"llvm.vector.reduce.umax.v{self._width}i8"
        return call(builder, name, INT8, [builder.load(self._largest)])

    def _of_planes(self, builder: Builder, size: int) -> Value:
        return builder.mul(self._planes, INT64(size))

    def _write(self, builder: Builder, at: Value, place: Value) -> None:
        """Write the scales of a block; begin to read the terms of the next plane."""
        vectors = range(ROWS // self._width)
        kinds = (self._words, self._words, self._unit.bytes_type)
        sums = [[cgutils.alloca_once(builder, kind) for kind in kinds] for _ in vectors]
        for total in (total for own in sums for total in own):
            builder.store(ir.Constant(total.type.pointee, None), total)
        with cgutils.for_range(builder, self._count) as loop:
            own = move(builder, at, builder.mul(loop.index, self._term_bytes))
            prefetch(builder, move(builder, own, self._plane_bytes))
            for i, totals in zip(vectors, sums, strict=True):
                there = move(builder, own, INT64(self._width * i))
                terms = load_vector(builder, there, self._unit.bytes_type)
                for total, part in zip(totals, self._powers(builder, terms), strict=True):
                    builder.store(builder.add(builder.load(total), part), total)
        vector_bytes = self._of_planes(builder, 2 * self._width)
        for i, totals in zip(vectors, sums, strict=True):
            *halves, negative = map(builder.load, totals)
            nothing = ir.Constant(negative.type, None)
            own = move(builder, place, builder.mul(INT64(i), vector_bytes))
            for j, count in enumerate(self._interleave(builder, negative, nothing)):
                scales = builder.add(halves[j], count)
                out = move(builder, own, INT64(self._width * j))
                builder.store(scales, builder.bitcast(out, scales.type.as_pointer()), align=1)

    def _powers(self, builder: Builder, terms: Value) -> list[Value]:
        """Return the powers of two of even bytes and of odd, less 1 if negative, and these ones."""
        kind = terms.type
        even_first = [lane + i for lane in range(0, kind.count, 16) for i in EVEN_FIRST]
        terms = shuffle(builder, terms, terms, even_first)
        magnitudes = builder.and_(terms, splat(kind, 127))
        name = f"llvm.umax.v{kind.count}i8"
        largest = call(builder, name, kind, [builder.load(self._largest), magnitudes])
        builder.store(largest, self._largest)
        signs = builder.ashr(terms, splat(kind, 7))
        parts = [builder.xor(self._look_up(builder, i, magnitudes), signs) for i in (0, 8)]
        return [*self._interleave(builder, *parts), builder.neg(signs)]

    def _interleave(self, builder: Builder, lower: Value, upper: Value) -> list[Value]:
        """Return numbers of 16 bits: of the first 8 bytes of each 16, and of the others."""
        count = lower.type.count
        firsts = [[lane + i for lane in range(0, count, 16) for i in range(8)]]
        firsts.append([first + 8 for first in firsts[0]])
        return [
            builder.bitcast(
                shuffle(builder, lower, upper, [i for f in own for i in (f, count + f)]),
                self._words,
            )
            for own in firsts
        ]

    def _look_up(self, builder: Builder, part: int, keys: Value) -> Value:
        """Return the eight bits of POWERS from ``part`` on; keys of more than 15 give anything."""
        entries = [power >> part & 255 for power in POWERS]
        table = constant_bytes(entries * (keys.type.count // len(entries)))
        return self._unit.shuffle_bytes(builder, table, keys)
