"""The innermost loops of matrix products, as LLVM: some rows of weights times some tokens.

A tile is ``tile(x, rest, weight, acc, t, n)``: for its tokens from t and its rows from n, add to
``acc[t, n]`` the product ``x[t] . weight[n]``; to every weight the bias of the unit is added. Where
the columns of x are no whole blocks, ``rest[t]`` is the last block: what the last bytes of each row
of weights, as many as a block has, are multiplied with. The sums stay in registers until then.

Several tokens take a block of all rows before the next block, and use it for all tokens. One token
takes row after row, in the order of memory, or some side by side. (One thread of a server of 2024,
AVX-512, weights from memory, of which NumPy sums 17 GB/s: 14 to 15 GB/s however far ahead is
prefetched; four rows block by block 8 to 15, and where 2 KB ahead was best 4 KB among the worst.)
"""

# mypy: disable-error-code="no-untyped-call,untyped-decorator"
# Numba's internals have no types.

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import reduce

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic
from numba.np.arrayobj import populate_array

from edgellm.runtime import cpu
from edgellm.runtime.kernels.simd._lane_sums import shift_back, sum_four, sum_one
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
)

ROWS = 4
"""Rows of weights in a tile, or 1."""
FAR_AHEAD = {"znver4": 3072, "znver5": 8192}
AHEAD_BYTES = FAR_AHEAD.get(cpu.host().name, 2048)
"""How far ahead one token prefetches weights. On a server of 2023, int8 ones then come at 17 GB/s,
at 14.5 with twice as much; ternary ones do not care for half or twice, and come at 9 to 12 without.
Zen 5 wants more than a page: ternary weights take 0.88 of the time then, five to a byte 0.84, the
head's nibbles 0.88, int8 0.98, and as much with twice as far. Zen 4 does not care much: ternary
weights of four rows side by side take 0.97 of the time with 3 instead of 2 KiB.
"""
LINE_BYTES = 64
NEAR = {"znver4": 2}.get(cpu.host().name, 3)
"""How near ``prefetch`` brings lines that do not all follow each other, of chosen rows or several
planes, and int8: into the first cache, or the second. (Zen 4, of which a thread has few lines on
their way to the first cache: chosen rows and inputs take 0.65 to 0.7 of the time with the second,
whole rows of the head 0.8, int8 rows 0.81. Ternary ones take 1.3 to 1.4 times as long.)"""


@dataclass(frozen=True)
class Operation:
    """What a tile does with a block: how it loads weights, multiplies and sums up.

    A block is one or more groups of 64 columns.

    Attributes:
        unit: whose instructions.
        block_bytes: bytes of weights in a block.
        shifts: for each group, how far its products are shifted left: one number for all lanes of
            a vector, or one for each 128 bits.
        load: (builder, pointer) -> the weights of a block, each group as vectors.
        load_x: (builder, pointer) -> 64 activations, as vectors.
        dot: (builder, total, weights, activations) -> total.
        unroll: blocks that one token takes at once, to have several sums that do not wait for each
            other.
        together: blocks of one group whose weights one ``dot`` takes together; of one token.
        rows: of a tile of one token, 1 or ROWS, as measured on Zen 5, weights from memory: in tiles
            of one row ternary ones take 0.85 to 0.95 of the time, nibbles 0.87 to 1, int8 ones up
            to 1.08.
        beside: whether the rows of such a tile are multiplied side by side, else one by one.
        near: how near they are prefetched one by one, as ``prefetch`` takes it; 0 is not at all.
    """

    unit: VectorUnit
    block_bytes: int
    shifts: tuple[tuple[int, ...], ...]
    load: Callable[[Builder, Value], list[list[Value]]]
    load_x: Callable[[Builder, Value], list[Value]]
    dot: Callable[[Builder, Value, Values, Values], Value]
    unroll: int
    together: int = 1
    rows: int = 1
    beside: bool = False
    near: int = 3

    @property
    def columns(self) -> int:
        """Columns of a block."""
        return len(self.shifts) * BLOCK

    def tile(self, rows: int, tokens: int) -> Intrinsic:
        """Return the intrinsic for so many rows and tokens, block by block."""
        return self._tile(self.multiply, rows, tokens)

    def tile_of_one(self, rows: int) -> Intrinsic:
        """Return the intrinsic for one token and so many rows, in several sums if row by row."""
        is_beside = self.beside and rows > 1
        return self._tile(self._side_by_side if is_beside else self._row_by_row, rows, 1)

    def _tile(self, multiply: Callable[..., list[Value]], rows: int, tokens: int) -> Intrinsic:
        def generate(context: Context, builder: Builder, signature: Type, args: Values) -> Value:
            x, rest, weight, acc = open_arrays(context, builder, signature, args[:4])
            t, n = args[4:]
            columns = cgutils.unpack_tuple(builder, x.shape)[1]
            row_bytes = cgutils.unpack_tuple(builder, weight.shape)[1]
            weights = matrix_rows(builder, weight, n, rows)
            begin_last = builder.sub(row_bytes, INT64(self.block_bytes))
            operands = Operands(
                columns,
                matrix_rows(builder, x, t, tokens),
                weights,
                matrix_rows(builder, rest, t, tokens),
                [move(builder, row, begin_last) for row in weights],
            )
            totals = multiply(builder, operands)
            for i, row in enumerate(matrix_rows(builder, acc, t, tokens)):
                place = move(builder, row, builder.mul(n, INT64(4)))
                add_sums(builder, place, totals[i * rows : (i + 1) * rows])
            return context.get_dummy_value()

        @intrinsic
        def tile(
            _: Context, x: Type, rest: Type, weight: Type, acc: Type, t: Type, n: Type
        ) -> Intrinsic:
            return types.void(x, rest, weight, acc, t, n), generate

        return tile

    def multiply(
        self,
        builder: Builder,
        operands: "Operands",
        wanted: Values = (),
        following: Value | None = None,
    ) -> list[Value]:
        """Return the totals of each token with each row, as vectors: the sums of their lanes.

        Groups that are shifted alike share sums. Rows that are ``wanted`` soon are prefetched
        meanwhile, or as many bytes from ``following`` on as the rows have.
        """
        shifts = sorted({*self.shifts})
        count = len(operands.xs) * len(operands.weights)
        sums = [self._zeros(builder, len(shifts)) for _ in range(count)]
        places = [[part[shifts.index(shift)] for shift in self.shifts] for part in sums]
        blocks = builder.udiv(operands.columns, INT64(self.columns))

        def add(block: Value, together: int) -> None:
            column = builder.mul(block, INT64(self.columns))
            offset = builder.mul(block, INT64(self.block_bytes))
            if wanted:
                with begin_line(builder, offset):
                    for row in wanted:
                        prefetch(builder, move(builder, row, offset), NEAR)
            if following is not None:
                size = len(operands.weights) * self.block_bytes
                begin = move(builder, following, builder.mul(block, INT64(size)))
                for line in range(0, size * together, LINE_BYTES):
                    prefetch(builder, move(builder, begin, INT64(line)))
            xs = [move(builder, x, column) for x in operands.xs]
            rows = [move(builder, row, offset) for row in operands.weights]
            self._add_block(builder, places, xs, rows, together)

        together = self.together if len(operands.xs) == 1 else 1
        steps = builder.udiv(blocks, INT64(together))
        with cgutils.for_range(builder, steps) as loop:
            add(builder.mul(loop.index, INT64(together)), together)
        if together > 1:
            done = builder.mul(steps, INT64(together))
            with cgutils.for_range(builder, blocks, start=done) as loop:
                add(loop.index, 1)
        if operands.rests:
            with self._if_rest(builder, operands):
                self._add_block(builder, places, operands.rests, operands.last)
        return [_collapse(builder, part, shifts) for part in sums]

    def _side_by_side(self, builder: Builder, operands: "Operands") -> list[Value]:
        """Return the totals of one token and all rows, and prefetch in the order of memory."""
        following = move(builder, operands.weights[0], INT64(AHEAD_BYTES))
        return self.multiply(builder, operands, following=following)

    def _row_by_row(self, builder: Builder, operands: "Operands") -> list[Value]:
        """Return the totals of one token and all rows; each group of several blocks has a sum."""
        (x,), (rest,) = operands.xs, operands.rests
        groups = len(self.shifts)
        blocks = builder.udiv(operands.columns, INT64(self.columns))
        steps = builder.udiv(blocks, INT64(self.unroll))
        totals = []
        for row, last in zip(operands.weights, operands.last, strict=True):
            parts = self.unroll // self.together
            sums = self._zeros(builder, groups * parts)
            with cgutils.for_range(builder, steps) as loop:
                first = builder.mul(loop.index, INT64(self.unroll))
                offset = builder.mul(first, INT64(self.block_bytes))
                size = self.unroll * self.block_bytes if self.near > 0 else 0
                for line in range(0, size, LINE_BYTES):
                    ahead = builder.add(offset, INT64(AHEAD_BYTES + line))
                    prefetch(builder, move(builder, row, ahead), self.near)
                for u in range(parts):
                    block = builder.add(first, INT64(u * self.together))
                    part = sums[u * groups : (u + 1) * groups]
                    self._add_at(builder, part, x, row, (block, self.together))
            if self.unroll > 1:
                done = builder.mul(steps, INT64(self.unroll))
                with cgutils.for_range(builder, blocks, start=done) as loop:
                    self._add_at(builder, sums[:groups], x, row, (loop.index, 1))
            with self._if_rest(builder, operands):
                self._add_block(builder, [sums[:groups]], [rest], [last])
            totals.append(_collapse(builder, sums, self.shifts * parts))
        return totals

    def _zeros(self, builder: Builder, count: int) -> list[Value]:
        """Return the places of so many sums."""
        zero = ir.Constant(self.unit.totals_type, None)
        return [cgutils.alloca_once_value(builder, zero) for _ in range(count)]

    def _if_rest(self, builder: Builder, operands: "Operands") -> AbstractContextManager[object]:
        left = builder.urem(operands.columns, INT64(self.columns))
        manager: AbstractContextManager[object] = builder.if_then(
            builder.icmp_unsigned("!=", left, INT64(0))
        )
        return manager

    def _add_at(
        self, builder: Builder, sums: list[Value], x: Value, row: Value, place: tuple[Value, int]
    ) -> None:
        """Add the products of one token and one row in blocks: the first, and how many."""
        block, together = place
        column = builder.mul(block, INT64(self.columns))
        offset = builder.mul(block, INT64(self.block_bytes))
        xs, rows = [move(builder, x, column)], [move(builder, row, offset)]
        self._add_block(builder, [sums], xs, rows, together)

    def _add_block(
        self,
        builder: Builder,
        sums: list[list[Value]],
        xs: Values,
        weights: Values,
        together: int = 1,
    ) -> None:
        """Add the products of a block, or of several together.

        Args:
            builder: where to emit.
            sums: for each token and row, the place of the sum of each group.
            xs: where the activations are.
            weights: where the weights are.
            together: how many blocks.
        """
        activations = [
            [
                self.load_x(builder, move(builder, x, INT64(group * BLOCK)))
                for group in range(len(self.shifts) * together)
            ]
            for x in xs
        ]
        for n, row in enumerate(weights):
            groups = [
                group
                for u in range(together)
                for group in self.load(builder, move(builder, row, INT64(u * self.block_bytes)))
            ]
            for t, token in enumerate(activations):
                places = sums[t * len(weights) + n]
                for i, place in enumerate(places):
                    factors = [
                        [vector for part in vectors[i :: len(places)] for vector in part]
                        for vectors in (groups, token)
                    ]
                    builder.store(self.dot(builder, builder.load(place), *factors), place)


@dataclass(frozen=True)
class Operands:
    """What is multiplied: pointers to rows.

    Attributes:
        columns: of activations.
        xs: the tokens.
        weights: the rows of weights.
        rests: what ``last`` is multiplied with, if the columns are no whole blocks; none where they
            always are.
        last: the last block of each row of weights.
    """

    columns: Value
    xs: Values
    weights: Values
    rests: Values = ()
    last: Values = ()


def _collapse(builder: Builder, sums: Values, shifts: Sequence[tuple[int, ...]]) -> Value:
    """Return one vector from those at ``sums``, of whose lanes the sum is the product."""
    parts: dict[tuple[int, ...], Value] = {}
    for place, shift in zip(sums, shifts, strict=True):
        value = builder.load(place)
        parts[shift] = builder.add(parts[shift], value) if shift in parts else value
    return reduce(
        builder.add, [shift_back(builder, value, shift) for shift, value in parts.items()]
    )


def add_sums(builder: Builder, place: Value, totals: Values) -> None:
    """Add the sums of ``totals`` to as many neighbouring int32."""
    four = len(totals) == ROWS
    kind = ir.VectorType(INT32, ROWS) if four else INT32
    sums = sum_four(builder, totals) if four else sum_one(builder, totals[0])
    pointer = builder.bitcast(place, kind.as_pointer())
    builder.store(builder.add(builder.load(pointer, align=4), sums), pointer, align=4)


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


@intrinsic
def start_row(_: Context, matrix: Type, t: Type, value: Type) -> Intrinsic:
    """``start_row(matrix, t, value)``: set a row of int32, whose columns are neighbours."""

    def generate(context: Context, builder: Builder, signature: Type, args: Values) -> Value:
        (array,) = open_arrays(context, builder, signature, args[:1])
        (row,) = matrix_rows(builder, array, args[1], 1)
        columns = cgutils.unpack_tuple(builder, array.shape)[1]
        with cgutils.for_range(builder, columns) as loop:
            place = move(builder, row, builder.mul(loop.index, INT64(4)))
            builder.store(args[2], builder.bitcast(place, INT32.as_pointer()), align=4)
        return context.get_dummy_value()

    return types.void(matrix, types.int64, types.int32), generate


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


def prefetch(builder: Builder, pointer: Value, locality: int = 3) -> None:
    """Begin to read a cache line that is wanted soon, into all caches or (2) not into the first."""
    arguments = [pointer, INT32(0), INT32(locality), INT32(1)]  # to read, how near, data
    call(builder, "llvm.prefetch.p0", ir.VoidType(), arguments)
