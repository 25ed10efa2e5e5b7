"""Values of the cache as the second sum of attention takes them, as LLVM: four rows interleaved.

A piece is as many columns as a vector has bytes, in their order.
"""

from dataclasses import dataclass

from llvmlite import ir

from edgellm.runtime.kernels.simd._lane_sums import shift_back
from edgellm.runtime.kernels.simd._unit import (
    BLOCK,
    INT8,
    INT64,
    Builder,
    Type,
    Value,
    Values,
    VectorUnit,
    load_vector,
    move,
    per_quarter,
    repeat,
    shuffle,
    splat,
)
from edgellm.runtime.kernels.vector._cache_codes import CacheCodes

LOW, HIGH = 0x0F, 0xF0
BOTH = LOW | HIGH
HALF = BLOCK // 2
WORDS = 16
"""Codes that are taken at once where words are multiplied."""


@dataclass(frozen=True)
class Piece:
    """Columns of int8.

    Attributes:
        unit: whose vectors.
        begin: from which byte on of those that are taken one after the other.
        lines: how many lines of memory are prefetched in two passes over four rows.
    """

    unit: VectorUnit
    begin: int
    lines: int

    def load(self, builder: Builder, rows: Values, half: int) -> list[Value]:
        """Return two vectors whose lanes have four rows of one column, from byte pointers.

        They hold the first or the second eight columns of each 128 bits.
        """
        return _interleave(builder, rows, self.unit.bytes_type, half)

    def dot(self, builder: Builder, total: Value, four: Value, x: Value) -> Value:
        """Add the products of such a vector and of four weights in each lane."""
        return self.unit.dot_bytes(builder, total, [four], [x])

    def settled(self, builder: Builder, sums: Value) -> Value:
        """Return sums of products as they are meant."""
        return sums


@dataclass(frozen=True)
class NibblePiece(Piece):
    """Columns of ``int4/v1``: lower nibbles of bytes, upper ones, or the ones and then the others.

    Attributes:
        mask: which.
    """

    mask: int

    def load(self, builder: Builder, rows: Values, half: int) -> list[Value]:
        """Return the same of codes + 8; upper nibbles that come with lower ones are times 16."""
        kind = ir.VectorType(INT8, min(4 * self.unit.lanes, HALF))
        return [self._take(builder, four) for four in _interleave(builder, rows, kind, half)]

    def _take(self, builder: Builder, pairs: Value) -> Value:
        if self.mask == BOTH:
            masks = per_quarter(self.unit.bytes_type, (LOW, HIGH))
            return builder.and_(repeat(builder, pairs, 2), masks)
        return _nibbles(builder, pairs, is_low=self.mask == LOW)

    def dot(self, builder: Builder, total: Value, four: Value, x: Value) -> Value:
        """Add the products; nibbles are no negative numbers."""
        return self.unit.dot_lanes(builder, total, four, x)

    def settled(self, builder: Builder, sums: Value) -> Value:
        """Divide what is times 16."""
        return shift_back(builder, sums, (0, 4)) if self.mask == BOTH else sums


def pieces_of(unit: VectorUnit, cached: CacheCodes) -> list[Piece]:
    """Return the pieces of a block of columns; of int8 there is one, as many as a vector has."""
    size = 4 * unit.lanes
    if not cached.is_packed:
        return [Piece(unit, 0, max(4 * size // BLOCK // 2, 1))]
    if size == BLOCK:
        return [NibblePiece(unit, 0, 1, BOTH)]
    return [
        NibblePiece(unit, begin, 1 if mask == LOW else 0, mask)
        for mask in (LOW, HIGH)
        for begin in range(0, HALF, size)
    ]


def words_at(builder: Builder, row: Value, column: Value, part: int, cached: CacheCodes) -> Value:
    """Load WORDS codes (+ 8, if they are nibbles) as int8.

    They are those of a row from ``column + part`` on; of nibbles ``column`` is a multiple of 64.
    """
    kind = ir.VectorType(INT8, WORDS)
    if not cached.is_packed:
        return load_vector(builder, move(builder, row, builder.add(column, INT64(part))), kind)
    begin = builder.add(builder.udiv(column, INT64(2)), INT64(part % HALF))
    return _nibbles(
        builder, load_vector(builder, move(builder, row, begin), kind), is_low=part < HALF
    )


def _nibbles(builder: Builder, pairs: Value, *, is_low: bool) -> Value:
    if is_low:
        return builder.and_(pairs, splat(pairs.type, LOW))
    return builder.lshr(pairs, splat(pairs.type, 4))


def _interleave(builder: Builder, rows: Values, kind: Type, half: int) -> list[Value]:
    """Return two vectors whose lanes have a byte of each of four rows, of the same column.

    They hold the first or the second eight columns of each 128 bits.
    """
    size = kind.count
    a, b, c, d = (load_vector(builder, row, kind) for row in rows)
    begin = 8 * half
    bytes_ = [
        s + begin + i + size * k for s in range(0, size, 16) for i in range(8) for k in (0, 1)
    ]
    ab, cd = shuffle(builder, a, b, bytes_), shuffle(builder, c, d, bytes_)
    words = ir.VectorType(ir.IntType(16), size // 2)
    ab, cd = builder.bitcast(ab, words), builder.bitcast(cd, words)
    count = size // 2
    return [
        builder.bitcast(
            shuffle(
                builder,
                ab,
                cd,
                [
                    s + part + i + count * k
                    for s in range(0, count, 8)
                    for i in range(4)
                    for k in (0, 1)
                ],
            ),
            kind,
        )
        for part in (0, 4)
    ]
