"""Scales of rows, sums of signed powers of two, as LLVM: written before many blocks need them.

The alphas of a group are far from those of the next in memory. Read between the planes, a few lines
at a time, they would take far more of the time than of the bytes; so they are read by themselves,
from as long pieces of memory as there are.
"""

# mypy: disable-error-code="no-untyped-call,untyped-decorator"
# Numba's internals have no types.

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic, register_jitable

from edgellm.ops._shift_alphas import GAPS, POWERS, SIGNS
from edgellm.runtime.kernels._bit_planes import ROWS
from edgellm.runtime.kernels._jit import PART_POLICY
from edgellm.runtime.kernels._scalar import Int
from edgellm.runtime.kernels.simd._unit import (
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
    splat_value,
)
from edgellm.runtime.kernels.vector._plane_blocks import PAIR
from edgellm.runtime.kernels.vector._tiles import bytes_of, open_arrays, prefetch

SCALE_BYTES = 1 << 18
"""For the scales of some blocks: a part of the second cache. (The same server, 4096 x 4096: with
half of it 1.07 times as long, with twice as much 0.98 times.)"""
BLOCK_BYTES = 2 * ROWS
"""Of a block's scales of one plane of a group."""
POWER_BYTES = [[power >> part & 255 for power in POWERS] for part in (0, 8)]
"""The lower and the upper bytes of powers of two, by exponent + 1."""
SIGN_BYTES = [255 if sign < 0 else 0 for sign in SIGNS]
EVEN_FIRST = (*range(0, 16, 2), *range(1, 16, 2))
IN_ORDER = tuple(range(16))
"""Of every 16 rows, which come first."""

Alphas = npt.NDArray[np.uint8]
Scales = npt.NDArray[np.int8]


def scale_filler(unit: VectorUnit, order: Sequence[int] = EVEN_FIRST) -> Callable[..., None]:
    """Return ``fill_scales(alphas, (planes, terms), (first, last), scales)``.

    It is for the blocks of rows from first to last. Of each PAIR of blocks their alphas lie group
    by group, vector by vector of rows, plane by plane: of a vector the even rows, then the odd, or
    what else comes first and last of every 16 rows in ``order``.
    alphas are (G, H, N) in the layout shift-alphas/v1.
    """
    fill = _filler(unit, order)

    @register_jitable(**PART_POLICY)
    def fill_scales(
        alphas: Alphas, shape: tuple[Int, Int], blocks: tuple[Int, Int], scales: Scales
    ) -> None:
        planes, terms = shape
        first, last = blocks
        fill(alphas, planes, terms, first * ROWS, last - first, scales)

    return fill_scales


def _filler(unit: VectorUnit, order: Sequence[int]) -> Intrinsic:
    """Return the intrinsic ``fill(alphas, planes, terms, row, blocks, scales)``."""

    def generate(context: Context, builder: Builder, signature: Type, args: Values) -> Value:
        kinds = types.void(signature.args[0], signature.args[5])
        arrays = open_arrays(context, builder, kinds, [args[0], args[5]])
        scales = _Scales(unit, builder, arrays, (args[1], args[2]))
        scales.order = order
        scales.generate(builder, args[3], args[4])
        return context.get_dummy_value()

    @intrinsic
    def fill(
        _: Context, alphas: Type, planes: Type, terms: Type, row: Type, blocks: Type, scales: Type
    ) -> Intrinsic:
        return types.void(alphas, planes, terms, row, blocks, scales), generate

    return fill


class _Scales:
    """The scales of some rows.

    Attributes:
        order: which of every 16 rows come first.
    """

    order: Sequence[int] = EVEN_FIRST

    def __init__(
        self, unit: VectorUnit, builder: Builder, arrays: Values, shape: tuple[Value, Value]
    ) -> None:
        self._unit, self._words = unit, ir.VectorType(INT16, 2 * unit.lanes)
        self._alphas, self._scales = (bytes_of(builder, array) for array in arrays)
        self._planes, self._terms = shape
        self._groups = cgutils.unpack_tuple(builder, arrays[0].shape)[0]
        self._group_bytes, self._pair_bytes, _ = cgutils.unpack_tuple(builder, arrays[0].strides)
        self._width = 4 * self._unit.lanes

    def generate(self, builder: Builder, row: Value, blocks: Value) -> None:
        """Write the scales of blocks of rows, the first of which is ``row``."""
        plane_bytes, block_bytes = INT64(2 * self._width), self._of_planes(builder, BLOCK_BYTES)
        group_bytes = builder.mul(block_bytes, INT64(PAIR))
        pair_bytes = builder.mul(group_bytes, self._groups)
        with (
            cgutils.for_range(builder, self._groups) as groups,
            cgutils.for_range(builder, self._planes) as planes,
        ):
            at = move(builder, self._alphas, builder.mul(groups.index, self._group_bytes))
            at = move(builder, at, row)
            out = move(builder, self._scales, builder.mul(groups.index, group_bytes))
            out = move(builder, out, builder.mul(planes.index, plane_bytes))
            nibble = builder.mul(planes.index, self._terms)
            with cgutils.for_range(builder, blocks) as loop:
                own = move(builder, at, builder.mul(loop.index, INT64(ROWS)))
                pair = builder.mul(builder.udiv(loop.index, INT64(PAIR)), pair_bytes)
                block = builder.mul(builder.urem(loop.index, INT64(PAIR)), block_bytes)
                self._write(builder, own, nibble, move(builder, out, builder.add(pair, block)))

    def _of_planes(self, builder: Builder, size: int) -> Value:
        return builder.mul(self._planes, INT64(size))

    def _write(self, builder: Builder, at: Value, first: Value, place: Value) -> None:
        """Write the scales of a block, whose nibbles begin with ``first``.

        Begin to read the next plane.
        """
        vectors = range(ROWS // self._width)
        vector_bytes = self._of_planes(builder, 2 * self._width)
        states = [self._begin(builder, self._nibbles(builder, at, first, i)) for i in vectors]
        with cgutils.for_range(builder, builder.sub(self._terms, INT64(1))) as loop:
            nibble = builder.add(builder.add(first, loop.index), INT64(1))
            coming = builder.add(nibble, self._terms)
            prefetch(builder, self._pair_of(builder, at, coming))
            for i, state in zip(vectors, states, strict=True):
                self._add(builder, self._nibbles(builder, at, nibble, i), state)
        for i, (_, *halves, negative) in zip(vectors, states, strict=True):
            count = builder.load(negative)
            own = move(builder, place, builder.mul(INT64(i), vector_bytes))
            for j, ones in enumerate(self._interleave(builder, count, splat(count.type, 0))):
                scales = builder.add(builder.load(halves[j]), ones)
                out = move(builder, own, INT64(self._width * j))
                builder.store(scales, builder.bitcast(out, scales.type.as_pointer()), align=1)

    def _pair_of(self, builder: Builder, at: Value, nibble: Value) -> Value:
        """Return where the bytes with a nibble of the rows from ``at`` on are."""
        return move(builder, at, builder.mul(builder.lshr(nibble, INT64(1)), self._pair_bytes))

    def _nibbles(self, builder: Builder, at: Value, nibble: Value, vector: int) -> Value:
        """Return a nibble of a vector of rows, each 16 in order."""
        there = move(builder, self._pair_of(builder, at, nibble), INT64(self._width * vector))
        pairs = load_vector(builder, there, self._unit.bytes_type)
        half = builder.trunc(builder.shl(builder.and_(nibble, INT64(1)), INT64(2)), INT16)
        words = builder.bitcast(pairs, self._words)
        moved = builder.lshr(words, splat_value(builder, half, self._words.count))
        order = [lane + i for lane in range(0, pairs.type.count, 16) for i in self.order]
        bytes_ = builder.bitcast(moved, pairs.type)
        return builder.and_(shuffle(builder, bytes_, bytes_, order), splat(pairs.type, 15))

    def _begin(self, builder: Builder, nibbles: Value) -> list[Value]:
        """Return exponents + 1, scales of even and of odd rows, and how many are too small by 1."""
        powers = [self._look_up(builder, entries, nibbles) for entries in POWER_BYTES]
        start = [nibbles, *self._interleave(builder, *powers), splat(nibbles.type, 0)]
        return [cgutils.alloca_once_value(builder, value) for value in start]

    def _add(self, builder: Builder, nibbles: Value, state: Values) -> None:
        """Add terms; negative ones as complements, which are counted."""
        kind = nibbles.type
        exponents, *halves, negative = state
        gaps, signs = (self._look_up(builder, entries, nibbles) for entries in (GAPS, SIGN_BYTES))
        name = f"llvm.usub.sat.v{kind.count}i8"
        exponent = call(builder, name, kind, [builder.load(exponents), gaps])
        builder.store(exponent, exponents)
        powers = [self._look_up(builder, entries, exponent) for entries in POWER_BYTES]
        parts = [builder.xor(power, signs) for power in powers]
        for half, part in zip(halves, self._interleave(builder, *parts), strict=True):
            builder.store(builder.add(builder.load(half), part), half)
        builder.store(builder.sub(builder.load(negative), signs), negative)

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

    def _look_up(self, builder: Builder, entries: Sequence[int], keys: Value) -> Value:
        """Return what 16 entries hold for keys of 0 to 15."""
        table = constant_bytes([*entries] * (keys.type.count // len(entries)))
        return self._unit.shuffle_bytes(builder, table, keys)
