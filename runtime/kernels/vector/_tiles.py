"""The innermost loops of matrix products, as LLVM: some rows of weights times some tokens.

A tile is ``tile(x, weight, acc, t, n)``: for its tokens from t and its rows from n, add to
``acc[t, n]`` the product ``x[t] . weight[n]`` over the whole blocks of 64 columns of x; to every
weight the bias of the unit is added. The sums stay in registers until the last column.
"""

# mypy: disable-error-code="no-untyped-call,untyped-decorator"
# Numba's internals have no types.

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic
from numba.np.arrayobj import populate_array

from edgellm.runtime.kernels.simd._unit import (
    BLOCK,
    INT8,
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
    move,
    sum_four,
    sum_one,
)

ROWS = 4
"""Rows of weights in a tile, or 1."""
TERNARY_AHEAD_BYTES = 12288
INT8_AHEAD_BYTES = 2048
"""A tile prefetches weights so far ahead, the best of a few distances tried on a server of 2024.
Without, one token reads ternary weights at two thirds of the memory's speed."""
LINE_BYTES = 64
TERNARY_BLOCK_BYTES = 16


@dataclass(frozen=True)
class Operation:
    """What a tile does with a block: how it loads weights, multiplies and sums up.

    Attributes:
        unit: whose instructions.
        block_bytes: bytes of weights that hold 64 columns.
        load: (builder, pointer) -> the weights of a block, as vectors.
        load_x: (builder, pointer) -> 64 activations, as vectors.
        dot: (builder, total, weights, activations) -> total.
        shifts: see ``VectorUnit.ternary_shifts``.
        ahead_bytes: how far ahead weights are prefetched; 0 for not at all.
    """

    unit: VectorUnit
    block_bytes: int
    load: Callable[[Builder, Value], list[Value]]
    load_x: Callable[[Builder, Value], list[Value]]
    dot: Callable[[Builder, Value, Values, Values], Value]
    shifts: tuple[int, ...]
    ahead_bytes: int

    def tile(self, rows: int, tokens: int) -> Intrinsic:
        """Return the intrinsic for so many rows and tokens."""

        def generate(context: Context, builder: Builder, signature: Type, args: Values) -> Value:
            x, weight, acc = open_arrays(context, builder, signature, args[:3])
            t, n = args[3:]
            blocks = builder.udiv(cgutils.unpack_tuple(builder, x.shape)[1], INT64(BLOCK))
            xs = matrix_rows(builder, x, t, tokens)
            totals = self.multiply(builder, blocks, xs, matrix_rows(builder, weight, n, rows))
            for i, row in enumerate(matrix_rows(builder, acc, t, tokens)):
                place = move(builder, row, builder.mul(n, INT64(4)))
                self._add(builder, place, totals[i * rows : (i + 1) * rows])
            return context.get_dummy_value()

        @intrinsic
        def tile(_: Context, x: Type, weight: Type, acc: Type, t: Type, n: Type) -> Intrinsic:
            return types.void(x, weight, acc, t, n), generate

        return tile

    def multiply(
        self, builder: Builder, blocks: Value, x: Values, weight: Values, wanted: Values = ()
    ) -> list[Value]:
        """Return the sums of each token with each row, as vectors: the sums of their lanes.

        Rows that are ``wanted`` soon are prefetched meanwhile.
        """
        zero = ir.Constant(self.unit.totals_type, None)
        count = len(x) * len(weight)
        totals = [cgutils.alloca_once(builder, zero.type) for _ in range(count)]
        for total in totals:
            builder.store(zero, total)
        with cgutils.for_range(builder, blocks) as loop:
            column = builder.mul(loop.index, INT64(BLOCK))
            offset = builder.mul(loop.index, INT64(self.block_bytes))
            if len(weight) == ROWS and self.ahead_bytes:
                self._prefetch(builder, weight[0], offset)
            if wanted:
                with begin_line(builder, offset):
                    for row in wanted:
                        prefetch(builder, move(builder, row, offset))
            xs = [self.load_x(builder, move(builder, row, column)) for row in x]
            for n, row in enumerate(weight):
                weights = self.load(builder, move(builder, row, offset))
                for t, activations in enumerate(xs):
                    total = totals[t * len(weight) + n]
                    value = self.dot(builder, builder.load(total), weights, activations)
                    builder.store(value, total)
        return [builder.load(total) for total in totals]

    def _prefetch(self, builder: Builder, tile: Value, offset: Value) -> None:
        """Prefetch as many bytes as a step reads, in the order of memory, for the tiles to come."""
        done = builder.mul(offset, INT64(ROWS))
        for line in range(0, ROWS * self.block_bytes, LINE_BYTES):
            prefetch(
                builder, move(builder, tile, builder.add(done, INT64(self.ahead_bytes + line)))
            )

    def _add(self, builder: Builder, place: Value, totals: Values) -> None:
        """Add the sums of ``totals`` to as many neighbouring int32."""
        four = len(totals) == ROWS
        kind = ir.VectorType(INT32, ROWS) if four else INT32
        sums = (
            sum_four(builder, totals, self.shifts)
            if four
            else sum_one(builder, totals[0], self.shifts)
        )
        pointer = builder.bitcast(place, kind.as_pointer())
        builder.store(builder.add(builder.load(pointer, align=4), sums), pointer, align=4)


def ternary(unit: VectorUnit) -> Operation:
    """Return the operation on weights in the layout ternary-2bit/v1."""
    return Operation(
        unit,
        TERNARY_BLOCK_BYTES,
        load=unit.ternary_codes,
        load_x=unit.byte_vectors,
        dot=unit.dot_codes,
        shifts=unit.ternary_shifts,
        ahead_bytes=TERNARY_AHEAD_BYTES,
    )


def int8(unit: VectorUnit) -> Operation:
    """Return the operation on int8 weights."""
    return Operation(
        unit,
        BLOCK,
        load=unit.int8_vectors,
        load_x=unit.int8_vectors,
        dot=unit.dot_bytes,
        shifts=(0,),
        ahead_bytes=INT8_AHEAD_BYTES,
    )


@intrinsic
def as_matrix(_: Context, vector: Type, columns: Type) -> Intrinsic:
    """``as_matrix(vector, columns)``: the same memory as rows of so many columns."""

    def generate(context: Context, builder: Builder, signature: Type, args: Values) -> Value:
        source = context.make_array(vector)(context, builder, args[0])
        (size,) = cgutils.unpack_tuple(builder, source.shape)
        (stride,) = cgutils.unpack_tuple(builder, source.strides)
        matrix = context.make_array(signature.return_type)(context, builder)
        populate_array(
            matrix,
            data=source.data,
            shape=[builder.udiv(size, args[1]), args[1]],
            strides=[builder.mul(stride, args[1]), stride],
            itemsize=source.itemsize,
            meminfo=None,
        )
        return matrix._getvalue()

    return types.Array(vector.dtype, 2, "C")(vector, types.int64), generate


def open_arrays(context: Context, builder: Builder, signature: Type, values: Values) -> list[Value]:
    """Return the first arguments of an intrinsic as Numba's structures of data and strides."""
    kinds = signature.args[: len(values)]
    return [
        context.make_array(kind)(context, builder, value)
        for kind, value in zip(kinds, values, strict=True)
    ]


def bytes_of(builder: Builder, array: Value) -> Value:
    """Return a byte pointer to the first element of an array."""
    return builder.bitcast(array.data, INT8.as_pointer())


def row_stride(builder: Builder, matrix: Value) -> Value:
    """Return the bytes from one row of a matrix to the next."""
    return cgutils.unpack_tuple(builder, matrix.strides)[0]


def matrix_rows(builder: Builder, matrix: Value, first: Value, count: int) -> list[Value]:
    """Return byte pointers to ``count`` rows of a matrix from ``first``."""
    data, stride = bytes_of(builder, matrix), row_stride(builder, matrix)
    return [
        move(builder, data, builder.mul(stride, builder.add(first, INT64(i)))) for i in range(count)
    ]


def begin_line(builder: Builder, offset: Value) -> AbstractContextManager[None]:
    """Emit what follows for the first of the offsets that are in a cache line."""
    within = builder.and_(offset, INT64(LINE_BYTES - 1))
    return builder.if_then(builder.icmp_unsigned("==", within, INT64(0)))


def prefetch(builder: Builder, pointer: Value) -> None:
    """Begin to read a cache line that is wanted soon."""
    arguments = [pointer, INT32(0), INT32(3), INT32(1)]  # to read, into all caches, data
    call(builder, "llvm.prefetch.p0", ir.VoidType(), arguments)
