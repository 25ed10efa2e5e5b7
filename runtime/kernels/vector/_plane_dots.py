"""Products of one token with planes of bits, as LLVM: bytes of turned bits times eight columns.

Fields stay where they are in their bytes: the sums of each are shifted back in the end.
"""

# mypy: disable-error-code="no-untyped-call,untyped-decorator"
# Numba's internals have no types.

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from edgellm.runtime.kernels._bit_planes import ROWS
from edgellm.runtime.kernels.simd._unit import (
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
    shift_back,
    shuffle,
    splat,
)
from edgellm.runtime.kernels.vector._codes import LANE, OCTET, Turned
from edgellm.runtime.kernels.vector._tiles import LINE_BYTES, bytes_of, open_arrays, prefetch

MOST_PLANES = 4
"""At once; then a byte has the fields of two rows or more."""
AHEAD_BYTES = 8192
"""How far ahead weights are prefetched."""


def plane_dots(unit: VectorUnit) -> Intrinsic:
    """Return the intrinsic ``dots(keys, stride, octets, planes, x, sums)``.

    keys is the first byte of 1 to MOST_PLANES planes, stride the bytes from octet to octet. For
    each of 64 rows the product of its codes and of the eight columns an octet from x on is written
    to ``sums``.
    """

    def generate(context: Context, builder: Builder, signature: Type, args: Values) -> Value:
        chosen = [0, 4, 5]
        kinds = types.void(*(signature.args[i] for i in chosen))
        keys, x, sums = open_arrays(context, builder, kinds, [args[i] for i in chosen])
        stride, octets, count = args[1:4]
        for planes in range(1, MOST_PLANES + 1):
            with builder.if_then(builder.icmp_unsigned("==", count, INT64(planes))):
                for begin in range(0, ROWS, 4 * unit.lanes):
                    at = move(builder, bytes_of(builder, keys), INT64(begin))
                    part = _Part(unit, Turned(planes), at, stride)
                    totals = part.multiply(builder, octets, bytes_of(builder, x))
                    part.store(
                        builder, totals, move(builder, bytes_of(builder, sums), INT64(4 * begin))
                    )
        return context.get_dummy_value()

    @intrinsic
    def dots(
        _: Context, keys: Type, stride: Type, octets: Type, planes: Type, x: Type, sums: Type
    ) -> Intrinsic:
        return types.void(keys, stride, octets, planes, x, sums), generate

    return dots


class _Part:
    """As many rows of a block as a vector has bytes."""

    def __init__(self, unit: VectorUnit, turned: Turned, keys: Value, stride: Value) -> None:
        self._unit, self._turned = unit, turned
        self._keys, self._stride = keys, stride

    def multiply(self, builder: Builder, octets: Value, x: Value) -> list[list[Value]]:
        """Return the sums of each vector of ``turn``, of each row of it: two lanes a row."""
        turned, zero = self._turned, ir.Constant(self._unit.totals_type, None)
        places = [
            [cgutils.alloca_once_value(builder, zero) for _ in range(turned.fields)]
            for _ in range(turned.vectors)
        ]
        with cgutils.for_range(builder, octets) as loop:
            keys = move(builder, self._keys, builder.mul(loop.index, self._stride))
            for plane in range(turned.planes):
                ahead = AHEAD_BYTES + plane * LINE_BYTES
                prefetch(builder, move(builder, keys, INT64(ahead)))
            eight = load_vector(
                builder,
                move(builder, x, builder.mul(loop.index, INT64(OCTET))),
                ir.VectorType(INT64, 1),
            )
            columns = builder.bitcast(
                repeat(builder, eight, self._unit.lanes // 2), self._unit.bytes_type
            )
            for row, vector in zip(places, turned.turn(builder, self._unit, keys), strict=True):
                for r, place in enumerate(row):
                    codes = builder.and_(vector, splat(vector.type, turned.mask(r)))
                    total = self._unit.dot_lanes(builder, builder.load(place), codes, columns)
                    builder.store(total, place)
        return [
            [
                shift_back(builder, builder.load(place), (turned.shift(r),))
                for r, place in enumerate(row)
            ]
            for row in places
        ]

    def store(self, builder: Builder, totals: list[list[Value]], sums: Value) -> None:
        """Write the sums in the order of the rows."""
        fours = [four for row in totals for four in _in_order(builder, row)]
        for place, vector in enumerate(fours):
            for lane in range(self._unit.lanes // 4):
                part = shuffle(builder, vector, vector, range(4 * lane, 4 * lane + 4))
                at = move(builder, sums, INT64(4 * (LANE * lane + 4 * place)))
                builder.store(part, builder.bitcast(at, part.type.as_pointer()), align=4)


def _in_order(builder: Builder, rows: Values) -> list[Value]:
    """Return the sums of pairs of lanes: of 2 * len(rows) rows, four a lane of 16 bytes."""
    pairs = [_add_pairs(builder, *rows[i : i + 2]) for i in range(0, len(rows), 2)]
    if len(pairs) == 1:
        return pairs
    lanes = pairs[0].type.count
    ordered = []
    for half in (0, 2):
        places = [
            start + half + i for start in range(0, lanes, 4) for i in (0, 1, lanes, lanes + 1)
        ]
        ordered += [shuffle(builder, *pairs[i : i + 2], places) for i in range(0, len(pairs), 2)]
    return ordered


def _add_pairs(builder: Builder, a: Value, b: Value) -> Value:
    """Return a0 + a1, b0 + b1, a2 + a3, b2 + b3, and so on."""
    lanes = a.type.count
    even, odd = (
        [source + i for i in range(half, lanes, 2) for source in (0, lanes)] for half in (0, 1)
    )
    return builder.add(shuffle(builder, a, b, even), shuffle(builder, a, b, odd))
