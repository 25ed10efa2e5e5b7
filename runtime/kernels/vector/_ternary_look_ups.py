"""Look-ups in planes of ternary weights with byte shuffles, as LLVM: one shuffle a table.

A table has the 16 sums of four activations that four bits choose, less the least of them: they are
0 to the sum of the magnitudes, which mostly is a byte. What is above 255 is a second table for the
same weights. So every sum is exact, and costs one shuffle instead of one for each half of an int16.
Several tokens share the weights: bytes are taken apart once for all.

In a story of stories-bitnet (192 columns) 6 % more steps are for second tables; in wider rows,
whose largest activation stands out more, fewer. With uniform activations it would be 75 % more:
slower than multiplying (AVX2: 0.95 times the speed for one token).
"""

# mypy: disable-error-code="no-untyped-call,untyped-decorator"
# Numba's internals have no types.

from collections.abc import Iterator
from contextlib import contextmanager

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

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
    call,
    load_vector,
    move,
    repeat,
    shuffle,
    splat,
)
from edgellm.runtime.kernels.vector._look_up_tables import LANE, each_octet, store_bytes
from edgellm.runtime.kernels.vector._tiles import (
    LINE_BYTES,
    bytes_of,
    matrix_rows,
    open_arrays,
    prefetch,
)
from edgellm.ternary_planes import PLANES, ROWS

OCTET_BYTES = PLANES * ROWS
"""Weights of 64 rows and 8 columns."""
TABLE_BYTES = 2 * LANE
"""Of a step: a table for each four columns of an octet."""
STEPS = 64
"""Whose sums fit in 16 bits, four bytes each."""
TOGETHER = 4
"""Tokens that share the weights; the sums of half a block of rows are in registers then."""
AHEAD_BYTES = 4096


def look_up(unit: VectorUnit, tokens: int) -> Intrinsic:
    """Return ``add(packed, tables, numbers, acc)``: add what tokens find to 64 sums each.

    These are acc[: tokens]. ``numbers`` are the bytes from an octet's tables to the next one's, and
    how many octets of packed are looked up, at most STEPS. Tokens' tables of an octet follow each
    other.
    """
    parts = 1 if tokens == 1 else 2
    part_bytes = OCTET_BYTES // parts

    def generate(context: Context, builder: Builder, signature: Type, args: Values) -> Value:
        kinds = types.void(*signature.args[:2], signature.args[3])
        packed, tables, acc = open_arrays(context, builder, kinds, [args[0], args[1], args[3]])
        stride, steps = cgutils.unpack_tuple(builder, args[2])
        outs = matrix_rows(builder, acc, INT64(0), tokens)
        for part in range(parts):
            begin = move(builder, bytes_of(builder, packed), INT64(part * part_bytes))
            row = part * part_bytes // PLANES
            with (
                _sums(builder, unit, part_bytes, outs, row) as sums,
                cgutils.for_range(builder, steps) as loop,
            ):
                keys = move(builder, begin, _times(builder, loop.index, OCTET_BYTES))
                if tokens == 1:
                    _expect(builder, keys)
                first = move(builder, bytes_of(builder, tables), builder.mul(loop.index, stride))
                places = [move(builder, first, INT64(t * TABLE_BYTES)) for t in range(tokens)]
                _add_octet(builder, unit, keys, places, sums)
        return context.get_dummy_value()

    @intrinsic
    def add(_: Context, packed: Type, tables: Type, numbers: Type, acc: Type) -> Intrinsic:
        return types.void(packed, tables, numbers, acc), generate

    return add


def look_up_listed(unit: VectorUnit) -> Intrinsic:
    """Return ``add(packed, tables, octets, steps, acc)``: as ``look_up``, of listed octets.

    Step i looks the weights of the octet ``octets[i]`` up in tables i; at most STEPS.
    """

    def generate(context: Context, builder: Builder, signature: Type, args: Values) -> Value:
        kinds = types.void(*signature.args[:3], signature.args[4])
        packed, tables, octets, acc = open_arrays(context, builder, kinds, [*args[:3], args[4]])
        outs = matrix_rows(builder, acc, INT64(0), 1)
        with (
            _sums(builder, unit, OCTET_BYTES, outs, 0) as sums,
            cgutils.for_range(builder, args[3]) as loop,
        ):
            octet = builder.zext(builder.load(builder.gep(octets.data, [loop.index])), INT64)
            keys = move(builder, bytes_of(builder, packed), _times(builder, octet, OCTET_BYTES))
            offset = _times(builder, loop.index, TABLE_BYTES)
            place = move(builder, bytes_of(builder, tables), offset)
            _add_octet(builder, unit, keys, [place], sums)
        return context.get_dummy_value()

    @intrinsic
    def add(
        _: Context, packed: Type, tables: Type, octets: Type, steps: Type, acc: Type
    ) -> Intrinsic:
        return types.void(packed, tables, octets, steps, acc), generate

    return add


def _times(builder: Builder, index: Value, size: int) -> Value:
    return builder.mul(index, INT64(size))


def _expect(builder: Builder, keys: Value) -> None:
    for line in range(0, OCTET_BYTES, LINE_BYTES):
        prefetch(builder, move(builder, keys, INT64(AHEAD_BYTES + line)))


@contextmanager
def _sums(
    builder: Builder, unit: VectorUnit, size: int, outs: Values, row: int
) -> Iterator[list[list[Value]]]:
    """Yield pointers to sums of 16 bits of each token, of ``size`` bytes of an octet.

    In the end they are added to ``outs``, each a token's 64 sums, from a row on.
    """
    kind = ir.VectorType(INT16, 2 * unit.lanes)
    zero, vectors = ir.Constant(kind, None), size // (4 * unit.lanes)
    sums = [[cgutils.alloca_once_value(builder, zero) for _ in range(vectors)] for _ in outs]
    yield sums
    for own, out in zip(sums, outs, strict=True):
        _add_wide(
            builder, [builder.load(place) for place in own], move(builder, out, INT64(4 * row))
        )


def _add_octet(
    builder: Builder, unit: VectorUnit, keys: Value, tables: Values, sums: list[list[Value]]
) -> None:
    """Add what the weights of an octet find in the tables of each token to its sums."""
    width, narrow = 4 * unit.lanes, ir.VectorType(INT8, LANE)
    for half in range(2):  # first the lower bits of all, so that few keys are in registers
        found = []
        for number in range(len(sums[0])):
            at = move(builder, keys, INT64(width * number))
            bytes_ = load_vector(builder, at, unit.bytes_type)
            mask, shift = splat(unit.bytes_type, 15), splat(unit.bytes_type, 4)
            found.append(builder.lshr(bytes_, shift) if half else builder.and_(bytes_, mask))
        for place, own in zip(tables, sums, strict=True):
            entries = load_vector(builder, move(builder, place, INT64(LANE * half)), narrow)
            table = repeat(builder, entries, width // LANE)
            for total, key in zip(own, found, strict=True):
                chosen = unit.shuffle_bytes(builder, table, key)
                builder.store(unit.add_byte_pairs(builder, builder.load(total), chosen), total)


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


@intrinsic
def fill_tables(
    _: Context, x: Type, tables: Type, stride: Type, more: Type, octets: Type
) -> Intrinsic:
    """``fill_tables(x, tables, stride, more, octets)``: of a token; return how many more there are.

    Each octet of x has them ``stride`` bytes behind the last one's; columns past the end of x count
    as 0. What is above 255 is in ``more``, and what is above 510 too; ``octets`` tells whose they
    are. Two steps behind the last one are written over.
    """

    def generate(context: Context, builder: Builder, signature: Type, args: Values) -> Value:
        chosen = [0, 1, 3, 4]
        kinds = types.void(*(signature.args[i] for i in chosen))
        arrays = open_arrays(context, builder, kinds, [args[i] for i in chosen])
        source, out, rest, owners = arrays
        count = cgutils.alloca_once_value(builder, INT64(0))
        with each_octet(builder, source) as (octet, entries):
            offset = builder.mul(octet, args[2])
            left = _store_bytes(builder, entries, move(builder, bytes_of(builder, out), offset))
            for _ in range(2):
                at = builder.load(count)
                offset = _times(builder, at, TABLE_BYTES)
                place = move(builder, bytes_of(builder, rest), offset)
                more_of_it = _is_any(builder, left)
                left = _store_bytes(builder, left, place)
                builder.store(builder.trunc(octet, INT32), builder.gep(owners.data, [at]))
                builder.store(builder.add(at, builder.zext(more_of_it, INT64)), count)
        return builder.load(count)

    return types.int64(x, tables, types.int64, more, octets), generate


def _store_bytes(builder: Builder, entries: Value, target: Value) -> Value:
    """Store the part of entries that is a byte, and return what is left."""
    bytes_ = call(
        builder, f"llvm.umin.v{2 * LANE}i16", entries.type, [entries, splat(entries.type, 255)]
    )
    store_bytes(builder, bytes_, target)
    return builder.sub(entries, bytes_)


def _is_any(builder: Builder, entries: Value) -> Value:
    """Tell whether any is not 0."""
    name = f"llvm.vector.reduce.or.v{2 * LANE}i16"
    return builder.icmp_unsigned("!=", call(builder, name, INT16, [entries]), INT16(0))
