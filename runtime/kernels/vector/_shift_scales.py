"""Scales of rows, sums of signed powers of two, as LLVM: written before many blocks need them.

Those of some blocks are read by themselves, before their planes: while the alphas of a group were
far from those of the next, reading them between planes took far more of the time than of the bytes.
(Not measured since they lie together; ``_word_look_ups`` makes scales where it needs them.)
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


def scale_filler(unit: VectorUnit) -> Callable[..., None]:
    """Return ``fill_scales(alphas, (groups, planes, terms), (first, last), scales)``.

    It is for the blocks of rows from first to last. Of each PAIR of blocks their alphas lie group
    by group, vector by vector of rows, plane by plane: of a vector the even rows, then the odd.
    alphas are (N, A) in the layout shift-alphas/v2.
    """
    fill = _filler(unit)

    @register_jitable(**PART_POLICY)
    def fill_scales(
        alphas: Alphas, shape: tuple[Int, Int, Int], blocks: tuple[Int, Int], scales: Scales
    ) -> None:
        first, last = blocks
        fill(alphas, shape, first, last - first, scales)

    return fill_scales


def _filler(unit: VectorUnit) -> Intrinsic:
    """Return the intrinsic ``fill(alphas, (groups, planes, terms), block, blocks, scales)``."""

    def generate(context: Context, builder: Builder, signature: Type, args: Values) -> Value:
        kinds = types.void(signature.args[0], signature.args[4])
        alphas, scales = open_arrays(context, builder, kinds, [args[0], args[4]])
        groups, planes, terms = cgutils.unpack_tuple(builder, args[1])
        row_bytes = cgutils.unpack_tuple(builder, alphas.shape)[1]
        rows = RowScales(unit, builder, bytes_of(builder, alphas), row_bytes, (planes, terms))
        _Scales(rows, groups, bytes_of(builder, scales)).generate(builder, args[2], args[3])
        return context.get_dummy_value()

    @intrinsic
    def fill(
        _: Context, alphas: Type, shape: Type, block: Type, blocks: Type, scales: Type
    ) -> Intrinsic:
        return types.void(alphas, shape, block, blocks, scales), generate

    return fill


class RowScales:
    """Makes scales of alphas in the layout shift-alphas/v2, of blocks of 64 rows.

    Attributes:
        data: where they begin.
        block_bytes: from one block to the next.
        group_bytes: from one group of a block to the next.
        planes: how many there are.
        terms: the most of an alpha.
        width: rows of a vector.
    """

    def __init__(
        self,
        unit: VectorUnit,
        builder: Builder,
        data: Value,
        row_bytes: Value,
        shape: tuple[Value, Value],
        order: Sequence[int] = EVEN_FIRST,
    ) -> None:
        """Take where alphas are, planes and terms, and which of every 16 rows come first."""
        self._unit, self._words = unit, ir.VectorType(INT16, 2 * unit.lanes)
        self._order, self.data = order, data
        self.planes, self.terms = shape
        nibbles = builder.add(builder.mul(*shape), INT64(1))
        self.group_bytes = builder.mul(builder.lshr(nibbles, INT64(1)), INT64(ROWS))
        self.block_bytes = builder.mul(row_bytes, INT64(ROWS))
        self.width = 4 * unit.lanes

    def of_block(self, builder: Builder, at: Value, first: Value) -> list[list[Value]]:
        """Return the scales of a block of rows, by vector: of the first rows, and of the others.

        Their group begins at ``at``, their nibbles with ``first``. Begin to read the next plane.
        (Without that 4096 x 4096 from memory takes 1.1 times as long, on Zen 5.)
        """
        vectors = range(ROWS // self.width)
        states = [self._begin(builder, self._nibbles(builder, at, first, i)) for i in vectors]
        with cgutils.for_range(builder, builder.sub(self.terms, INT64(1))) as loop:
            nibble = builder.add(builder.add(first, loop.index), INT64(1))
            coming = builder.add(nibble, self.terms)
            prefetch(builder, self._pair_of(builder, at, coming))
            for i, state in zip(vectors, states, strict=True):
                self._add(builder, self._nibbles(builder, at, nibble, i), state)
        return [self._finish(builder, state) for state in states]

    def _finish(self, builder: Builder, state: Values) -> list[Value]:
        """Return the scales, from complements and how many there are."""
        _, *halves, negative = state
        count = builder.load(negative)
        ones = self._interleave(builder, count, splat(count.type, 0))
        return [
            builder.add(builder.load(half), one) for half, one in zip(halves, ones, strict=True)
        ]

    def _pair_of(self, builder: Builder, at: Value, nibble: Value) -> Value:
        """Return where the bytes with a nibble of the rows of a group are."""
        return move(builder, at, builder.mul(builder.lshr(nibble, INT64(1)), INT64(ROWS)))

    def _nibbles(self, builder: Builder, at: Value, nibble: Value, vector: int) -> Value:
        """Return a nibble of a vector of rows, each 16 in order."""
        there = move(builder, self._pair_of(builder, at, nibble), INT64(self.width * vector))
        pairs = load_vector(builder, there, self._unit.bytes_type)
        half = builder.trunc(builder.shl(builder.and_(nibble, INT64(1)), INT64(2)), INT16)
        words = builder.bitcast(pairs, self._words)
        moved = builder.lshr(words, splat_value(builder, half, self._words.count))
        order = [lane + i for lane in range(0, pairs.type.count, 16) for i in self._order]
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


class _Scales:
    """Writes the scales of some rows."""

    def __init__(self, rows: RowScales, groups: Value, scales: Value) -> None:
        self._rows, self._groups, self._scales = rows, groups, scales

    def generate(self, builder: Builder, block: Value, blocks: Value) -> None:
        """Write the scales of some blocks of rows, from one on."""
        plane_bytes = INT64(2 * self._rows.width)
        block_bytes = builder.mul(self._rows.planes, INT64(BLOCK_BYTES))
        group_bytes = builder.mul(block_bytes, INT64(PAIR))
        pair_bytes = builder.mul(group_bytes, self._groups)
        with (
            cgutils.for_range(builder, self._groups) as groups,
            cgutils.for_range(builder, self._rows.planes) as planes,
        ):
            at = move(builder, self._rows.data, builder.mul(groups.index, self._rows.group_bytes))
            at = move(builder, at, builder.mul(block, self._rows.block_bytes))
            out = move(builder, self._scales, builder.mul(groups.index, group_bytes))
            out = move(builder, out, builder.mul(planes.index, plane_bytes))
            nibble = builder.mul(planes.index, self._rows.terms)
            with cgutils.for_range(builder, blocks) as loop:
                own = move(builder, at, builder.mul(loop.index, self._rows.block_bytes))
                pair = builder.mul(builder.udiv(loop.index, INT64(PAIR)), pair_bytes)
                within = builder.mul(builder.urem(loop.index, INT64(PAIR)), block_bytes)
                self._write(builder, own, nibble, move(builder, out, builder.add(pair, within)))

    def _write(self, builder: Builder, at: Value, first: Value, place: Value) -> None:
        """Write the scales of a block, whose nibbles begin with ``first``."""
        width = self._rows.width
        vector_bytes = builder.mul(self._rows.planes, INT64(2 * width))
        for i, halves in enumerate(self._rows.of_block(builder, at, first)):
            own = move(builder, place, builder.mul(INT64(i), vector_bytes))
            for j, scales in enumerate(halves):
                out = move(builder, own, INT64(width * j))
                builder.store(scales, builder.bitcast(out, scales.type.as_pointer()), align=1)
