"""Products with weights in the layout ``int8-planes/v1``, as LLVM: each plane by itself."""

# mypy: disable-error-code="no-untyped-call,untyped-decorator"
# Numba's internals have no types.

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from edgellm.runtime import cpu
from edgellm.runtime.kernels.simd._lane_sums import sum_four
from edgellm.runtime.kernels.simd._unit import (
    BLOCK,
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
    per_quarter,
    shuffle,
    splat,
)
from edgellm.runtime.kernels.vector._operations import ONE_TOKEN_ROWS, in_one_group
from edgellm.runtime.kernels.vector._tiles import (
    Operands,
    Operation,
    bytes_of,
    matrix_rows,
    open_arrays,
    row_stride,
)

NIBBLES_BYTES = 32
BITS_BYTES = 8
PLANES = 4
LISTED = 8
"""Rows of a tile of bits: their sums do not wait for each other."""
WHOLE_ROWS = 4
"""Rows of a tile that reads all planes, of which there are as many."""
NIBBLES_NEAR = {"znver4": 0}.get(cpu.host().name, 3)
"""How near one token prefetches nibbles. (Zen 4, 128,256 rows of 2,560 columns from memory: without
they take 0.8 of the time; and 0.92 of that where four rows are summed up together.)"""


def nibbles(unit: VectorUnit) -> Operation:
    """Return the operation on the high nibbles of weights + 128."""
    return Operation(
        unit,
        NIBBLES_BYTES,
        shifts=(unit.nibble_shifts,),
        load=in_one_group(unit.nibble_codes),
        load_x=unit.byte_vectors,
        dot=unit.dot_codes,
        unroll=4,
        together=unit.dot_blocks,
        rows=ONE_TOKEN_ROWS,
        near=NIBBLES_NEAR,
    )


def bits(unit: VectorUnit) -> Intrinsic:
    """Return the intrinsic ``tile(x, plane, ids, i, ahead, sums)`` for a plane of bits.

    It stores in ``sums[i]`` and those that follow the products of x, (K,), with LISTED rows of the
    plane, ids[i] and so on, and prefetches as many from ids[ahead].
    """
    operation = Operation(
        unit,
        BITS_BYTES,
        shifts=(unit.bit_shifts,),
        load=in_one_group(unit.bit_codes),
        load_x=unit.byte_vectors,
        dot=unit.dot_codes,
        unroll=1,
        together=unit.dot_blocks,
    )

    def generate(context: Context, builder: Builder, signature: Type, args: Values) -> Value:
        x, plane, ids = open_arrays(context, builder, signature, args[:3])
        i, ahead, sums = args[3:]
        out = context.make_array(signature.args[5])(context, builder, sums)
        (columns,) = cgutils.unpack_tuple(builder, x.shape)
        rows, wanted = (_listed(builder, plane, ids, first) for first in (i, ahead))
        operands = Operands(columns, [bytes_of(builder, x)], rows)
        totals = operation.multiply(builder, operands, wanted)
        for first in range(0, LISTED, 4):
            place = builder.gep(out.data, [builder.add(i, INT64(first))])
            four = sum_four(builder, totals[first : first + 4])
            builder.store(four, builder.bitcast(place, four.type.as_pointer()), align=4)
        return context.get_dummy_value()

    @intrinsic
    def tile(
        _: Context, x: Type, plane: Type, ids: Type, i: Type, ahead: Type, sums: Type
    ) -> Intrinsic:
        return types.void(x, plane, ids, i, ahead, sums), generate

    return tile


def _listed(builder: Builder, plane: Value, ids: Value, first: Value) -> list[Value]:
    """Return byte pointers to the rows that neighbours in a list name."""
    stride, data = row_stride(builder, plane), bytes_of(builder, plane)
    places = [builder.gep(ids.data, [builder.add(first, INT64(j))]) for j in range(LISTED)]
    rows = [builder.zext(builder.load(place), INT64) for place in places]
    return [move(builder, data, builder.mul(stride, row)) for row in rows]


@intrinsic
def unpack(_: Context, high: Type, low: Type, v: Type, out: Type, i: Type) -> Intrinsic:
    """``unpack(high, low, v, out, i)``: write the int8 weights of row v as row i of a matrix."""

    def generate(context: Context, builder: Builder, signature: Type, args: Values) -> Value:
        source, planes = open_arrays(context, builder, signature, args[:2])
        matrix = context.make_array(signature.args[3])(context, builder, args[3])
        (target,) = matrix_rows(builder, matrix, args[4], 1)
        (nibble_row,) = matrix_rows(builder, source, args[2], 1)
        plane_bytes, bit_bytes, _ = cgutils.unpack_tuple(builder, planes.strides)
        first = move(builder, bytes_of(builder, planes), builder.mul(bit_bytes, args[2]))
        starts = [move(builder, first, builder.mul(plane_bytes, INT64(q))) for q in range(PLANES)]
        blocks = builder.udiv(row_stride(builder, source), INT64(NIBBLES_BYTES))
        with cgutils.for_range(builder, blocks) as loop:
            at = builder.mul(loop.index, INT64(BITS_BYTES))
            bit_rows = [move(builder, start, at) for start in starts]
            nibble = move(builder, nibble_row, builder.mul(loop.index, INT64(NIBBLES_BYTES)))
            weights = _weights(builder, nibble, bit_rows)
            place = move(builder, target, builder.mul(loop.index, INT64(BLOCK)))
            builder.store(weights, builder.bitcast(place, weights.type.as_pointer()), align=1)
        return context.get_dummy_value()

    return types.void(high, low, v, out, i), generate


def _weights(builder: Builder, nibble: Value, bit_rows: Values) -> Value:
    """Return 64 int8 weights, without a shift of bytes by different amounts."""
    kind = ir.VectorType(INT8, BLOCK)
    half = ir.VectorType(INT8, BLOCK // 2)
    packed = load_vector(builder, nibble, half)
    upper = builder.and_(packed, splat(half, 0xF0))
    weights = shuffle(builder, builder.shl(packed, splat(half, 4)), upper, range(BLOCK))
    masks = per_quarter(kind, [1 << bit for bit in range(8)])
    for plane, row in enumerate(bit_rows):
        eighth = load_vector(builder, row, ir.VectorType(INT8, 8))
        held = builder.and_(shuffle(builder, eighth, eighth, [*range(8)] * 8), masks)
        is_set = builder.icmp_unsigned("!=", held, ir.Constant(kind, None))
        value = splat(kind, 1 << (PLANES - 1 - plane))
        weights = builder.or_(weights, builder.select(is_set, value, ir.Constant(kind, None)))
    return builder.xor(weights, splat(kind, 128))
