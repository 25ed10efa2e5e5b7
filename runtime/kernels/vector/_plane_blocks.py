"""One token times blocks of 64 rows of planes of bits, as LLVM.

What planes choose stays in registers; what is done with it, subclasses of ``PlaneBlocks`` say.
"""

# mypy: disable-error-code="no-untyped-call,untyped-decorator"
# Numba's internals have no types.

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic, register_jitable

from edgellm.runtime.kernels._bit_planes import ROWS
from edgellm.runtime.kernels._jit import PART_POLICY
from edgellm.runtime.kernels._scalar import Int
from edgellm.runtime.kernels.simd._unit import (
    INT64,
    Builder,
    Context,
    Intrinsic,
    Type,
    Value,
    Values,
    VectorUnit,
    move,
)
from edgellm.runtime.kernels.vector._look_up_tables import OCTET_TABLES, SPAN_OCTETS
from edgellm.runtime.kernels.vector._look_ups import BESIDE, Span, sums_of_plane
from edgellm.runtime.kernels.vector._plane_dots import INTO_LEVEL_2
from edgellm.runtime.kernels.vector._tiles import LINE_BYTES, bytes_of, open_arrays, prefetch

PAIR = 2
"""Blocks that one token takes together, a group of each. (A server of 2023, one core, from memory:
with 4 it takes 1.03 to 1.09 times as long, with 8 up to 1.19 times.)"""
AHEAD_LINES = 64
"""How far ahead planes are prefetched at least: a span of 128 columns and 4 bits."""

Totals = npt.NDArray[np.int64]


@register_jitable(**PART_POLICY)
def octets_ahead(octets: Int, planes: Int) -> Int:
    """Return how many octets ahead are prefetched, in groups of so many: whole spans."""
    span = min(octets, SPAN_OCTETS)
    return span * max(AHEAD_LINES // (span * planes), 1)


@intrinsic
def begin_blocks(_: Context, planes: Type, octets: Type) -> Intrinsic:
    """``begin_blocks(planes, octets)``: begin to read the first octets of some blocks."""

    def generate(context: Context, builder: Builder, signature: Type, args: Values) -> Value:
        (array,) = open_arrays(context, builder, types.void(signature.args[0]), args[:1])
        blocks, _, planes, _ = cgutils.unpack_tuple(builder, array.shape)
        size = cgutils.unpack_tuple(builder, array.strides)[0]
        lines = builder.mul(args[1], planes)
        with cgutils.for_range(builder, blocks) as loop:
            keys = move(builder, bytes_of(builder, array), builder.mul(loop.index, size))
            with cgutils.for_range(builder, lines) as inner:
                line = builder.mul(inner.index, INT64(LINE_BYTES))
                prefetch(builder, move(builder, keys, line), INTO_LEVEL_2)
        return context.get_dummy_value()

    return types.void(planes, octets), generate


def in_order(unit: VectorUnit) -> Callable[..., None]:
    """Return ``put(mixed, rows, totals)``: totals as ``PlaneBlocks`` leaves them, by row."""
    lanes = unit.lanes
    half, by_halves = lanes // 2, unit.widens_halves

    @register_jitable(**PART_POLICY)
    def put(mixed: Totals, rows: Int, totals: Totals) -> None:
        for row in range(rows):
            lane, field = row % (4 * lanes) // 4, row % 4
            part, place = (lane // half, lane % half) if by_halves else (lane % 2, lane // 2)
            totals[row] = mixed[
                row // (4 * lanes) * (4 * lanes) + (2 * field + part) * half + place
            ]

    return put


@dataclass(frozen=True)
class Turn:
    """What is about to be added: a span of a group.

    Attributes:
        group: its number.
        is_first: whether the span is the first of the group.
    """

    group: Value
    is_first: Value


class PlaneBlocks(ABC):
    """The products of some blocks of 64 rows with one token.

    Attributes:
        unit: whose instructions.
        planes: how many there are.
    """

    def __init__(self, unit: VectorUnit, builder: Builder, arrays: Values) -> None:
        """Take (blocks, octets, P, 64) of planes, tables of ``fill_tables``, totals."""
        planes = arrays[0]
        self.unit = unit
        self._keys, self._tables, self._totals = (bytes_of(builder, array) for array in arrays)
        self._blocks, self._octets, self.planes, _ = cgutils.unpack_tuple(builder, planes.shape)
        self._block_bytes, self._stride, _, _ = cgutils.unpack_tuple(builder, planes.strides)
        self.width = 4 * unit.lanes
        self._in_one_block = ROWS % (BESIDE * self.width) == 0

    @abstractmethod
    def begin(self, builder: Builder, turn: Turn) -> None:
        """Begin a span, before all rows."""

    @abstractmethod
    def add_plane(
        self, builder: Builder, halves: Values, plane: Value, row: Value, sums: Values
    ) -> None:
        """Add what rows from one on choose: the even ones, and the odd ones, in 16 bits.

        sums are pointers to vectors of int32: rows 0, 4, 8 and so on, 1, 5 ..., 2 ..., 3 ...
        """

    @abstractmethod
    def finish(self, builder: Builder, row: Value, sums: Values) -> list[list[Value]]:
        """Return what the sums of all planes add to the totals: of each, widened, int64."""

    def generate(self, builder: Builder, size: Value, next_blocks: Value, ahead: Value) -> None:
        """Add to the totals, which ``in_order`` puts in order.

        Args:
            builder: where to emit.
            size: octets of a group.
            next_blocks: how many blocks on those are that come next.
            ahead: how many octets ahead are prefetched (``octets_ahead``).
        """
        self._ahead = ahead
        self._next_bytes = builder.mul(next_blocks, self._block_bytes)
        group = cgutils.alloca_once_value(builder, INT64(0))
        step = INT64(SPAN_OCTETS)
        with cgutils.for_range_slice(builder, INT64(0), self._octets, size, INT64) as (begin, _):
            end = lesser(builder, builder.add(begin, size), self._octets)
            with cgutils.for_range_slice(builder, begin, end, step, INT64) as (octet, _):
                octets = lesser(builder, builder.sub(end, octet), step)
                is_first = builder.icmp_unsigned("==", octet, begin)
                self.begin(builder, Turn(builder.load(group), is_first))
                self._add_span(builder, octet, octets)
            builder.store(builder.add(builder.load(group), INT64(1)), group)

    def _add_span(self, builder: Builder, first: Value, octets: Value) -> None:
        """Add the products of a span of a group's octets: its first, and how many."""
        kind = self.unit.totals_type
        keys = move(builder, self._keys, builder.mul(first, self._stride))
        tables = move(builder, self._tables, builder.mul(first, INT64(OCTET_TABLES)))
        sums = [[cgutils.alloca_once(builder, kind) for _ in range(4)] for _ in range(BESIDE)]
        rows, step = builder.mul(self._blocks, INT64(ROWS)), INT64(BESIDE * self.width)
        ahead = self._wanted(builder, first)
        with cgutils.for_range_slice(builder, INT64(0), rows, step, INT64) as (row, _):
            out = [builder.add(row, INT64(self.width * i)) for i in range(BESIDE)]
            read = out if self._in_one_block else self._clamp(builder, out, rows)
            for place in (place for four in sums for place in four):
                builder.store(ir.Constant(kind, None), place)
            blocks = [self._block(builder, keys, one) for one in read]
            streams = blocks[:1] if self._in_one_block else blocks
            with cgutils.for_range(builder, self.planes) as planes:
                byte = builder.mul(planes.index, INT64(ROWS))
                at = self._at(builder, blocks, read, byte)
                # All planes together prefetch line after line.
                lines = builder.mul(builder.mul(planes.index, octets), INT64(LINE_BYTES))
                line = builder.add(lines, ahead)
                wanted = [move(builder, stream, line) for stream in streams]
                plane = Span(at, self._stride, octets, tables, wanted)
                found = sums_of_plane(builder, self.unit, plane)
                for halves, one, four in zip(found, read, sums, strict=True):
                    self.add_plane(builder, halves, planes.index, one, four)
            for to, one, four in zip(out, read, sums, strict=True):
                self._add_totals(builder, to, self.finish(builder, one, four))

    def _clamp(self, builder: Builder, out: list[Value], rows: Value) -> list[Value]:
        """Return what is read where the rows end within BESIDE vectors: the last, once more."""
        return [lesser(builder, one, builder.sub(rows, INT64(self.width))) for one in out]

    def _at(self, builder: Builder, blocks: Values, rows: Values, byte: Value) -> list[Value]:
        """Return where the keys of vectors of rows are, so many bytes behind those of octets."""
        at = [
            move(builder, block, builder.add(byte, builder.and_(row, INT64(ROWS - 1))))
            for block, row in zip(blocks, rows, strict=True)
        ]
        if self._in_one_block:  # one pointer, of which LLVM keeps one register and not BESIDE
            return [move(builder, at[0], INT64(self.width * i)) for i in range(BESIDE)]
        return at

    def _wanted(self, builder: Builder, first: Value) -> Value:
        """Return how far ahead of an octet keys are wanted: of these blocks, or the next ones."""
        end = builder.add(first, self._ahead)
        inside = builder.icmp_signed("<", end, self._octets)
        distance = builder.mul(self._ahead, self._stride)
        to_next = builder.sub(self._next_bytes, builder.mul(self._octets, self._stride))
        return builder.select(inside, distance, builder.add(distance, to_next))

    def _block(self, builder: Builder, keys: Value, row: Value) -> Value:
        """Return where the octets of the block of a row begin."""
        return move(builder, keys, builder.mul(builder.udiv(row, INT64(ROWS)), self._block_bytes))

    def _add_totals(self, builder: Builder, row: Value, parts: list[list[Value]]) -> None:
        """Add vectors of int64 to the totals from the place of a row on, one after the other."""
        size = 8 * self.unit.lanes // 2
        base = move(builder, self._totals, builder.mul(row, INT64(8)))
        for i, part in enumerate(part for own in parts for part in own):
            at = move(builder, base, INT64(size * i))
            place = builder.bitcast(at, part.type.as_pointer())
            builder.store(builder.add(builder.load(place, align=8), part), place, align=8)


def lesser(builder: Builder, a: Value, b: Value) -> Value:
    """Return the lesser of two signed numbers."""
    return builder.select(builder.icmp_signed("<", a, b), a, b)
