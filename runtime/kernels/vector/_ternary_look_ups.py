"""Look-ups in planes of ternary weights with byte shuffles, as LLVM: one shuffle a table.

A table has the 16 sums of four activations that four bits choose, less the least of them: they are
0 to the sum of the magnitudes, which mostly is a byte. What is above 255 is a second table for the
same weights. So every sum is exact, and costs one shuffle instead of one for each half of an int16.

In a story of stories-bitnet (192 columns) 6 % more steps are for second tables; in wider rows,
whose largest activation stands out more, fewer. With uniform activations it would be 75 % more:
slower than multiplying (AVX2: 0.95 times the speed for one token, 0.8 for many).
"""

# mypy: disable-error-code="no-untyped-call,untyped-decorator"
# Numba's internals have no types.

import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic, register_jitable

from edgellm.runtime.kernels._jit import PART_POLICY
from edgellm.runtime.kernels._scalar import Int
from edgellm.runtime.kernels.simd._unit import (
    INT8,
    INT16,
    INT32,
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
from edgellm.runtime.kernels.vector._tiles import bytes_of, open_arrays, prefetch
from edgellm.ternary_planes import PLANES, ROWS

OCTET_BYTES = PLANES * ROWS
"""Weights of 64 rows and 8 columns."""
TABLE = 16
STEP_TABLES = 2 * TABLE
"""Bytes of the tables of a step, one for each four columns of an octet."""
STEPS = 64
"""Whose sums fit in 16 bits, four bytes each."""
AHEAD_BYTES = 4096
LINE_BYTES = 64


def look_up(unit: VectorUnit) -> Intrinsic:
    """Return ``add(packed, tables, octets, steps, acc)``: add what is looked up to 64 sums.

    Step i looks the weights of the octet ``octets[i]`` up in tables i; at most STEPS.
    """

    def generate(context: Context, builder: Builder, signature: Type, args: Values) -> Value:
        arrays = types.void(*signature.args[:3], signature.args[4])
        packed, tables, octets, acc = open_arrays(context, builder, arrays, [*args[:3], args[4]])
        kind = ir.VectorType(INT16, 2 * unit.lanes)
        zero = ir.Constant(kind, None)
        sums = [cgutils.alloca_once_value(builder, zero) for _ in range(ROWS // kind.count)]
        with cgutils.for_range(builder, args[3]) as loop:
            octet = builder.zext(builder.load(builder.gep(octets.data, [loop.index])), INT64)
            keys = move(builder, bytes_of(builder, packed), _times(builder, octet, OCTET_BYTES))
            for line in range(0, OCTET_BYTES, LINE_BYTES):
                prefetch(builder, move(builder, keys, INT64(AHEAD_BYTES + line)))
            offset = _times(builder, loop.index, STEP_TABLES)
            pair = _tables(builder, unit, move(builder, bytes_of(builder, tables), offset))
            _add_octet(builder, unit, keys, pair, sums)
        _add_wide(builder, [builder.load(place) for place in sums], bytes_of(builder, acc))
        return context.get_dummy_value()

    @intrinsic
    def add(
        _: Context, packed: Type, tables: Type, octets: Type, steps: Type, acc: Type
    ) -> Intrinsic:
        return types.void(packed, tables, octets, steps, acc), generate

    return add


def _times(builder: Builder, index: Value, size: int) -> Value:
    return builder.mul(index, INT64(size))


def _tables(builder: Builder, unit: VectorUnit, pointer: Value) -> list[Value]:
    """Load two tables, once for every 16 bytes of a vector."""
    narrow = ir.VectorType(INT8, TABLE)
    places = (move(builder, pointer, INT64(TABLE * i)) for i in range(2))
    times = 4 * unit.lanes // TABLE
    return [repeat(builder, load_vector(builder, place, narrow), times) for place in places]


def _add_octet(
    builder: Builder, unit: VectorUnit, keys: Value, tables: Values, sums: Values
) -> None:
    """Add what the weights of an octet find to the sums at ``sums``."""
    for number, place in enumerate(sums):
        at = move(builder, keys, INT64(4 * unit.lanes * number))
        bytes_ = load_vector(builder, at, unit.bytes_type)
        halves = [
            builder.and_(bytes_, splat(unit.bytes_type, 15)),
            builder.lshr(bytes_, splat(unit.bytes_type, 4)),
        ]
        total = builder.load(place)
        for half, table in zip(halves, tables, strict=True):
            found = unit.shuffle_bytes(builder, table, half)
            total = unit.add_byte_pairs(builder, total, found)
        builder.store(total, place)


def _add_wide(builder: Builder, sums: Values, acc: Value) -> None:
    """Add unsigned sums of 16 bits to the int32 at ``acc``."""
    row = 0
    for vector in sums:
        lanes = vector.type.count // 2
        kind = ir.VectorType(INT32, lanes)
        for begin in (0, lanes):
            part = shuffle(builder, vector, vector, range(begin, begin + lanes))
            place = builder.bitcast(move(builder, acc, INT64(4 * row)), kind.as_pointer())
            total = builder.add(builder.load(place, align=4), builder.zext(part, kind))
            builder.store(total, place, align=4)
            row += lanes


@register_jitable(**PART_POLICY)
def fill_steps(
    x: npt.NDArray[np.int8], tables: npt.NDArray[np.uint8], octets: npt.NDArray[np.int32]
) -> Int:
    """Write the tables of a token and the octet of each step; return the number of steps.

    Columns past the end of x count as 0. A step behind the last one is written over.
    """
    steps = 0
    for octet in range((x.shape[0] + 7) // 8):
        place = steps * STEP_TABLES
        low = _fill(x, 8 * octet, tables[place:])
        high = _fill(x, 8 * octet + 4, tables[place + TABLE :])
        octets[steps] = octets[steps + 1] = octet
        steps += 2 if low or high else 1
    return steps


@register_jitable(**PART_POLICY)
def _fill(x: npt.NDArray[np.int8], first: Int, tables: npt.NDArray[np.uint8]) -> bool:
    """Write a table, and that of what is above 255 a step further; tell whether there is any."""
    a, b, c, d = four(x, first)
    zero = np.int16(0)
    least = np.int16(min(a, zero) + min(b, zero) + min(c, zero) + min(d, zero))
    for key in range(TABLE):
        total = np.int16(chosen(a, b, c, d, key) - least)
        byte = min(total, np.int16(255))
        tables[key] = np.uint8(byte)
        tables[STEP_TABLES + key] = np.uint8(total - byte)
    return abs(a) + abs(b) + abs(c) + abs(d) > 255


@register_jitable(**PART_POLICY)
def chosen(a: np.int16, b: np.int16, c: np.int16, d: np.int16, key: Int) -> np.int16:
    """Return the sum of those of four activations whose bits are set in a key."""
    total = (a & -np.int16(key & 1)) + (b & -np.int16(key >> 1 & 1))
    return np.int16(total + (c & -np.int16(key >> 2 & 1)) + (d & -np.int16(key >> 3)))


@register_jitable(**PART_POLICY)
def four(x: npt.NDArray[np.int8], first: int) -> tuple[np.int16, np.int16, np.int16, np.int16]:
    """Return four neighbouring activations, 0 past the end."""
    columns = x.shape[0]
    zero = np.int16(0)
    return (
        np.int16(x[first]) if first < columns else zero,
        np.int16(x[first + 1]) if first + 1 < columns else zero,
        np.int16(x[first + 2]) if first + 2 < columns else zero,
        np.int16(x[first + 3]) if first + 3 < columns else zero,
    )
