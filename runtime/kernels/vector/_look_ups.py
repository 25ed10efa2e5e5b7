"""Look-ups in bit planes with byte shuffles: 16 rows and more, four columns each, an instruction.

A table of 16 sums of four activations is two vectors of bytes, the lower and the upper halves of
int16 (T-MAC's tables, but exact). The keys of 64 rows and 8 columns are 64 bytes.
"""

# mypy: disable-error-code="no-untyped-call,untyped-decorator"
# Numba's internals have no types.

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic, register_jitable

from edgellm.runtime.kernels._bit_planes import ROWS, SPAN
from edgellm.runtime.kernels._jit import PART_POLICY
from edgellm.runtime.kernels._scalar import Int, stack_int16
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
    load_vector,
    move,
    repeat,
    shuffle,
    splat,
)
from edgellm.runtime.kernels.vector._tiles import bytes_of, open_arrays, prefetch

KEY_TABLE = 32
"""Bytes of a table: 16 lower halves, then 16 upper halves."""
MAX_COLUMNS = 65_536
SHUFFLES = MAX_COLUMNS // 4 * KEY_TABLE
"""Bytes of tables for the longest row: 512 KiB of the stack."""
SPAN_OCTETS = SPAN // 8
"""Octets whose sums fit in int16: 256 * 127."""
WORDS = 8 * ROWS
AHEAD_BYTES = 4096
LANE = 16
"""Bytes of a vector that a shuffle treats as one."""


def look_ups(unit: VectorUnit, planes: int) -> Intrinsic:
    """Return ``add(keys, stride, octets, tables, words)`` for so many planes of a block.

    keys is the first byte of the first plane, stride the bytes from octet to octet; the sums of
    plane p and row r are written to ``words[64 * p + r]``.
    """

    def generate(context: Context, builder: Builder, signature: Type, args: Values) -> Value:
        keys, tables, words = open_arrays(context, builder, _chosen(signature), _three(args))
        stride, octets = args[1], args[2]
        kind = ir.VectorType(INT16, 2 * unit.lanes)
        count = planes * ROWS // (4 * unit.lanes) * 2
        sums = [cgutils.alloca_once(builder, kind) for _ in range(count)]
        for place in sums:
            builder.store(ir.Constant(kind, None), place)
        with cgutils.for_range(builder, octets) as loop:
            octet = move(builder, bytes_of(builder, keys), builder.mul(loop.index, stride))
            for plane in range(planes):
                prefetch(builder, move(builder, octet, INT64(AHEAD_BYTES + plane * ROWS)))
            offset = builder.mul(loop.index, INT64(2 * KEY_TABLE))
            halves = _tables(builder, unit, move(builder, bytes_of(builder, tables), offset))
            for index, part in enumerate(_add_octet(builder, unit, octet, halves, planes)):
                builder.store(builder.add(builder.load(sums[index]), part), sums[index])
        _store(builder, [builder.load(place) for place in sums], bytes_of(builder, words))
        return context.get_dummy_value()

    @intrinsic
    def add(
        _: Context, keys: Type, stride: Type, octets: Type, tables: Type, words: Type
    ) -> Intrinsic:
        return types.void(keys, stride, octets, tables, words), generate

    return add


def _three(args: Values) -> list[Value]:
    return [args[0], args[3], args[4]]


def _chosen(signature: Type) -> Type:
    """Return the signature of the arguments that are arrays."""
    return types.void(signature.args[0], signature.args[3], signature.args[4])


def _tables(builder: Builder, unit: VectorUnit, pointer: Value) -> list[Value]:
    """Load the lower and upper halves of two tables, once for every 16 bytes of a vector."""
    narrow = ir.VectorType(INT8, LANE)
    places = (move(builder, pointer, INT64(LANE * i)) for i in range(4))
    times = 4 * unit.lanes // LANE
    return [repeat(builder, load_vector(builder, place, narrow), times) for place in places]


def _add_octet(
    builder: Builder, unit: VectorUnit, keys: Value, tables: Values, planes: int
) -> list[Value]:
    """Return the sums of 8 columns as int16, two vectors for every vector of keys."""
    width = 4 * unit.lanes
    results = []
    for begin in range(0, planes * ROWS, width):
        bytes_ = load_vector(builder, move(builder, keys, INT64(begin)), unit.bytes_type)
        lower = builder.and_(bytes_, splat(unit.bytes_type, 15))
        upper = builder.lshr(bytes_, splat(unit.bytes_type, 4))
        first = _words(builder, unit, lower, tables[:2])
        second = _words(builder, unit, upper, tables[2:])
        results += [builder.add(a, b) for a, b in zip(first, second, strict=True)]
    return results


def _words(builder: Builder, unit: VectorUnit, keys: Value, tables: Values) -> list[Value]:
    """Return the int16 that keys find: of every 16 rows the first 8, and the last 8."""
    low, high = (unit.shuffle_bytes(builder, table, keys) for table in tables)
    width = 4 * unit.lanes
    kind = ir.VectorType(INT16, width // 2)
    halves = []
    for start in (0, LANE // 2):
        places = [
            place
            for lane in range(0, width, LANE)
            for i in range(lane + start, lane + start + LANE // 2)
            for place in (i, width + i)
        ]
        halves.append(builder.bitcast(shuffle(builder, low, high, places), kind))
    return halves


def _store(builder: Builder, vectors: Values, words: Value) -> None:
    """Store sums in the order of their rows: eight at a time."""
    eight = LANE // 2
    row = 0
    for first, second in zip(vectors[::2], vectors[1::2], strict=True):
        for lane in range(0, first.type.count, eight):
            for vector in (first, second):
                part = shuffle(builder, vector, vector, range(lane, lane + eight))
                place = move(builder, words, INT64(2 * row))
                builder.store(part, builder.bitcast(place, part.type.as_pointer()), align=2)
                row += eight


def group_chooser(unit: VectorUnit) -> Callable[..., None]:
    """Return ``choose(planes, shuffles, sums)``: what ``_bit_planes.choose_group`` writes to sums.

    planes are the octets of a group, shuffles its tables as ``fill_shuffles`` writes them.
    """
    one, two, most = look_ups(unit, 1), look_ups(unit, 2), look_ups(unit, unit.planes)
    at_once = unit.planes

    @register_jitable(**PART_POLICY)
    def choose(
        planes: npt.NDArray[np.uint8],
        shuffles: npt.NDArray[np.int8],
        sums: npt.NDArray[np.int32],
    ) -> None:
        words = stack_int16(WORDS)
        count = planes.shape[1]
        sums[: count * ROWS] = 0
        for first in range(0, planes.shape[0], SPAN_OCTETS):
            octets = min(planes.shape[0] - first, SPAN_OCTETS)
            tables = shuffles[first * 2 * KEY_TABLE :]
            plane = 0
            while plane < count:
                left = count - plane
                keys, out = planes[first, plane], words[plane * ROWS :]
                if left >= at_once:
                    most(keys, count * ROWS, octets, tables, out)
                    plane += at_once
                elif left >= 2:
                    two(keys, count * ROWS, octets, tables, out)
                    plane += 2
                else:
                    one(keys, count * ROWS, octets, tables, out)
                    plane += 1
            for i in range(count * ROWS):
                sums[i] += words[i]

    return choose


@register_jitable(**PART_POLICY)
def fill_shuffles(x: npt.NDArray[np.int8], shuffles: npt.NDArray[np.int8]) -> None:
    """Write for every four columns the 16 sums that four bits can choose, as two times 16 bytes.

    Whole octets are written; columns past the end of x count as 0.
    """
    for first in range(0, (x.shape[0] + 7) // 8 * 8, 4):
        table = shuffles[first * (KEY_TABLE // 4) : first * (KEY_TABLE // 4) + KEY_TABLE]
        a, b, c, d = four(x, first)
        for key in range(16):
            total = chosen(a, b, c, d, key)
            table[key] = np.int8(total)
            table[16 + key] = np.int8(total >> 8)


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
