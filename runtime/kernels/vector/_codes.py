"""Bytes from planes of bits, as LLVM: eight columns of every row of a block at a time.

First the bytes of the planes of a row are put side by side. Then eight bytes are a matrix of 8 x 8
bits, of ``8 / planes`` rows; turned, it has a column in each byte, in fields of as many bits as
there are planes. Planes are made up to 1, 2, 4 or 8 with zeros.
"""

# mypy: disable-error-code="no-untyped-call,untyped-decorator"
# Numba's internals have no types.

from collections.abc import Iterator
from dataclasses import dataclass

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from edgellm.runtime.kernels._bit_planes import ROWS
from edgellm.runtime.kernels.simd._unit import (
    INT8,
    INT64,
    Builder,
    Context,
    Intrinsic,
    Type,
    Value,
    Values,
    VectorUnit,
    load_vector,
    move,
    repeat,
    shuffle,
    splat,
)
from edgellm.runtime.kernels.vector._tiles import (
    bytes_of,
    open_arrays,
    row_stride,
)

OCTET = 8
LANE = 16
"""Bytes of a vector that stay together when others are put between them."""


@dataclass(frozen=True)
class Turned:
    """How planes lie in the vectors that ``turn`` returns.

    Vector v has in lane L of 16 bytes, in its half q, the columns of ``fields`` rows, each a byte:
    row ``16 L + 2 fields v + fields q + r`` in the field ``fields - 1 - r``.

    Attributes:
        planes: 1 to 8.
    """

    planes: int

    @property
    def vectors(self) -> int:
        """Vectors for every vector of rows: the planes, made up to a power of two."""
        return 1 << (self.planes - 1).bit_length()

    @property
    def fields(self) -> int:
        """Fields of a byte."""
        return 8 // self.vectors

    def shift(self, r: int) -> int:
        """Return where the field of row r begins."""
        return (self.fields - 1 - r) * self.vectors

    def mask(self, r: int) -> int:
        """Return the bits of the field of row r."""
        return ((1 << self.vectors) - 1) << self.shift(r)

    def row(self, v: int, q: int, r: int) -> int:
        """Return the row, of 16."""
        return self.fields * (2 * v + q) + r

    def turn(
        self, builder: Builder, unit: VectorUnit, keys: Value, count: Value | None = None
    ) -> list[Value]:
        """Return the vectors of as many rows as a vector has bytes.

        Args:
            builder: where to emit.
            unit: whose instructions.
            keys: where the bytes of the first plane are.
            count: the planes that there are, if it is known only when running.
        """
        planes = [_load_plane(builder, unit, keys, plane, count) for plane in range(self.planes)]
        planes += [ir.Constant(unit.bytes_type, None)] * (self.vectors - self.planes)
        return [unit.turn_bits(builder, part) for part in _side_by_side(builder, planes[::-1])]


def _load_plane(
    builder: Builder, unit: VectorUnit, keys: Value, plane: int, count: Value | None
) -> Value:
    """Load the bytes of a plane, zeros where there is none."""
    if count is None:
        return load_vector(builder, move(builder, keys, INT64(ROWS * plane)), unit.bytes_type)
    there = builder.icmp_unsigned("<", INT64(plane), count)
    place = move(builder, keys, builder.select(there, INT64(ROWS * plane), INT64(0)))
    loaded = load_vector(builder, place, unit.bytes_type)
    return builder.select(there, loaded, ir.Constant(loaded.type, None))


def _side_by_side(builder: Builder, planes: Values) -> list[Value]:
    """Return the bytes of all vectors by turns, lane by lane of 16 bytes."""
    if len(planes) == 1:
        return [*planes]
    half = len(planes) // 2
    size = half  # bytes that are side by side already
    bytes_ = planes[0].type.count
    pairs = zip(
        _side_by_side(builder, planes[:half]), _side_by_side(builder, planes[half:]), strict=True
    )
    results = []
    for first, second in pairs:
        for begin in (0, LANE // 2):
            starts = [
                lane + begin + at
                for lane in range(0, bytes_, LANE)
                for at in range(0, LANE // 2, size)
            ]
            places = [
                source + start + i
                for start in starts
                for source in (0, bytes_)
                for i in range(size)
            ]
            results.append(shuffle(builder, first, second, places))
    return results


def unpack(unit: VectorUnit) -> Intrinsic:
    """Return the intrinsic ``unpack(keys, octets, out)``.

    It writes the codes of 64 rows and so many octets to the rows of ``out``, bytes; two octets at a
    time, so that what is behind an odd number of them is overwritten. keys are the octets of a
    block from the first on, (octets, planes, 64).
    """

    def generate(context: Context, builder: Builder, signature: Type, args: Values) -> Value:
        kinds = types.void(signature.args[0], signature.args[2])
        keys, out = open_arrays(context, builder, kinds, [args[0], args[2]])
        stride, width = row_stride(builder, keys), row_stride(builder, out)
        count = cgutils.unpack_tuple(builder, keys.shape)[1]
        pairs = builder.udiv(builder.add(args[1], INT64(1)), INT64(2))
        last = builder.sub(args[1], INT64(1))
        for planes in (1, 2, 4, 8):
            fits = builder.icmp_unsigned("<=", count, INT64(planes))
            more = builder.icmp_unsigned(">", count, INT64(planes // 2))
            with (
                builder.if_then(builder.and_(fits, more)),
                cgutils.for_range(builder, pairs) as loop,
            ):
                first = builder.shl(loop.index, INT64(1))
                second = builder.or_(first, INT64(1))
                inside = builder.icmp_unsigned("<", second, last)
                second = builder.select(inside, second, last)
                at = [
                    move(builder, bytes_of(builder, keys), builder.mul(octet, stride))
                    for octet in (first, second)
                ]
                place = move(builder, bytes_of(builder, out), builder.mul(first, INT64(OCTET)))
                for row, codes in _rows_of(builder, unit, Turned(planes), at, count):
                    target = move(builder, place, builder.mul(width, INT64(row)))
                    builder.store(codes, builder.bitcast(target, codes.type.as_pointer()), align=1)
        return context.get_dummy_value()

    @intrinsic
    def unpack_codes(_: Context, keys: Type, octets: Type, out: Type) -> Intrinsic:
        return types.void(keys, octets, out), generate

    return unpack_codes


def _rows_of(
    builder: Builder, unit: VectorUnit, turned: Turned, octets: Values, planes: Value
) -> Iterator[tuple[int, Value]]:
    """Yield each row of a block and its codes in two octets."""
    width = 4 * unit.lanes
    for begin in range(0, ROWS, width):
        pairs = zip(
            *(turned.turn(builder, unit, move(builder, at, INT64(begin)), planes) for at in octets),
            strict=True,
        )
        for v, pair in enumerate(pairs):
            for r in range(turned.fields):
                codes = [_field(builder, part, turned, r) for part in pair]
                for q in (0, 1):
                    both = _halves(builder, codes, q)
                    for lane in range(width // LANE):
                        bytes_ = range(LANE * lane, LANE * lane + LANE)
                        row = begin + LANE * lane + turned.row(v, q, r)
                        yield row, shuffle(builder, both, both, bytes_)


def _halves(builder: Builder, pair: Values, q: int) -> Value:
    """Return of each lane the half q of the first vector, and that of the second."""
    width = pair[0].type.count
    places = [
        source + lane + OCTET * q + i
        for lane in range(0, width, LANE)
        for source in (0, width)
        for i in range(OCTET)
    ]
    return shuffle(builder, *pair, places)


def _field(builder: Builder, vector: Value, turned: Turned, r: int) -> Value:
    if turned.fields == 1:
        return vector
    shifted = builder.lshr(vector, splat(vector.type, turned.shift(r)))
    return builder.and_(shifted, splat(vector.type, (1 << turned.vectors) - 1))


def translate(unit: VectorUnit) -> Intrinsic:
    """Return the intrinsic ``look_up(codes, count, table, out)``.

    It writes ``table[code]`` for ``count`` codes below 16, and something for what makes up the last
    vector behind them. All are bytes.
    """

    def generate(context: Context, builder: Builder, signature: Type, args: Values) -> Value:
        kinds = types.void(*(signature.args[i] for i in (0, 2, 3)))
        arrays = open_arrays(context, builder, kinds, [args[i] for i in (0, 2, 3)])
        codes, table, out = (bytes_of(builder, array) for array in arrays)
        width = 4 * unit.lanes
        once = load_vector(builder, table, ir.VectorType(INT8, LANE))
        entries = repeat(builder, once, width // LANE)
        vectors = builder.udiv(builder.add(args[1], INT64(width - 1)), INT64(width))
        with cgutils.for_range(builder, vectors) as loop:
            offset = builder.mul(loop.index, INT64(width))
            keys = load_vector(builder, move(builder, codes, offset), unit.bytes_type)
            found = unit.shuffle_bytes(builder, entries, keys)
            target = builder.bitcast(move(builder, out, offset), found.type.as_pointer())
            builder.store(found, target, align=1)
        return context.get_dummy_value()

    @intrinsic
    def look_up(_: Context, codes: Type, count: Type, table: Type, out: Type) -> Intrinsic:
        return types.void(codes, count, table, out), generate

    return look_up
