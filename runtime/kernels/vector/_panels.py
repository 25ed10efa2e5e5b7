"""Products of many tokens, as LLVM: weights are laid out once for the lanes, used by all tokens.

A panel holds some columns of ROW_GROUPS * lanes rows of weights: for every four columns, a vector a
group whose lane i has the four weights of row i. Times four activations, the same for all lanes,
that is the next term of as many results as there are lanes: no sum across lanes is left to do.
"""

# mypy: disable-error-code="no-untyped-call,untyped-decorator"
# Numba's internals have no types.

from collections.abc import Callable
from dataclasses import dataclass
from itertools import product

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from edgellm.runtime.kernels.simd._unit import (
    BLOCK,
    INT32,
    INT64,
    TRITS,
    Builder,
    Context,
    Intrinsic,
    Type,
    Value,
    Values,
    VectorUnit,
    load_vector,
    move,
    shuffle,
    splat,
)
from edgellm.runtime.kernels.vector._tiles import (
    bytes_of,
    matrix_rows,
    open_arrays,
    prefetch,
    row_stride,
)

ROW_GROUPS = 2
TOKENS = 8
"""Tokens of a tile: 2 * 8 sums of one vector each stay in registers, enough to hide latencies."""
SPAN = 1024
"""Columns of a panel; with 32 rows it takes 32 KiB of a level-1 cache."""
CHUNK = 16
"""Bytes of a row that are loaded at once."""


@dataclass(frozen=True)
class Panels:
    """How weights get into panels.

    Attributes:
        unit: whose instructions.
        columns: of a block.
        block_bytes: bytes of weights in a block, a multiple of CHUNK.
        spread: (builder, four vectors) -> vectors as ``dot_codes`` takes them, four for each column
            that a byte has. Lane i of input d has bytes 4d..4d+3 of row i; lane i of output 4p + d
            has the column number p of each of these four bytes.
    """

    unit: VectorUnit
    columns: int
    block_bytes: int
    spread: Callable[[Builder, Values], list[Value]]

    @property
    def rows(self) -> int:
        """Rows of a panel."""
        return ROW_GROUPS * self.unit.lanes

    @property
    def span(self) -> int:
        """Most columns of a panel: whole blocks."""
        return SPAN // self.columns * self.columns

    def fill(self) -> Intrinsic:
        """Return the intrinsic ``fill(weight, panel, n, begin, blocks)``.

        It lays out so many blocks, from the byte ``begin`` on, of the rows from n.
        """

        def generate(context: Context, builder: Builder, signature: Type, args: Values) -> Value:
            weight, panel = open_arrays(context, builder, signature, args[:2])
            n, begin, blocks = args[2:]
            first = move(builder, matrix_rows(builder, weight, n, 1)[0], begin)
            # The panel of the next rows is wanted when this one has met all tokens.
            ahead = builder.mul(row_stride(builder, weight), INT64(self.rows))
            out, stride = bytes_of(builder, panel), row_stride(builder, weight)
            with cgutils.for_range(builder, blocks) as loop:
                offset = builder.mul(loop.index, INT64(self.block_bytes))
                at = _rows_from(builder, move(builder, first, offset), stride, self.rows)
                at_line = builder.icmp_unsigned("==", builder.and_(offset, INT64(63)), INT64(0))
                with builder.if_then(at_line):
                    expected = move(builder, move(builder, first, offset), ahead)
                    for place in _rows_from(builder, expected, stride, self.rows):
                        prefetch(builder, place, 2)
                done = builder.mul(loop.index, INT64(self.columns * self.rows))
                self._lay_out(builder, at, move(builder, out, done))
            return context.get_dummy_value()

        @intrinsic
        def fill(
            _: Context, weight: Type, panel: Type, n: Type, begin: Type, blocks: Type
        ) -> Intrinsic:
            return types.void(weight, panel, n, begin, blocks), generate

        return fill

    def _lay_out(self, builder: Builder, rows: Values, out: Value) -> None:
        """Write a block of each row as vectors, in the order of a panel."""
        lanes = self.unit.lanes
        chunks = self.block_bytes // CHUNK
        for group, chunk in product(range(ROW_GROUPS), range(chunks)):
            at = [
                move(builder, row, INT64(chunk * CHUNK))
                for row in rows[group * lanes : (group + 1) * lanes]
            ]
            for number, vector in enumerate(self.spread(builder, _transpose(builder, at))):
                step = (number // 4 * chunks + chunk) * 4 + number % 4
                place = move(builder, out, INT64((step * ROW_GROUPS + group) * 4 * lanes))
                builder.store(vector, builder.bitcast(place, vector.type.as_pointer()))

    def tile(self) -> Intrinsic:
        """Return the intrinsic ``tile(x, panel, acc, t, n, k, count)``.

        For TOKENS tokens from t and the rows of the panel, which are those from n: add to
        ``acc[t, n]`` the product over columns k to k + count.
        """

        def generate(context: Context, builder: Builder, signature: Type, args: Values) -> Value:
            x, panel, acc = open_arrays(context, builder, signature, args[:3])
            t, n, k, count = args[3:]
            xs = [move(builder, row, k) for row in matrix_rows(builder, x, t, TOKENS)]
            totals = iter(self._multiply(builder, xs, bytes_of(builder, panel), count))
            kind = self.unit.totals_type.as_pointer()
            for row in matrix_rows(builder, acc, t, TOKENS):
                for group in range(ROW_GROUPS):
                    column = builder.add(n, INT64(group * self.unit.lanes))
                    place = builder.bitcast(move(builder, row, builder.mul(column, INT64(4))), kind)
                    total = builder.add(builder.load(place, align=4), next(totals))
                    builder.store(total, place, align=4)
            return context.get_dummy_value()

        @intrinsic
        def tile(
            _: Context, x: Type, panel: Type, acc: Type, t: Type, n: Type, k: Type, count: Type
        ) -> Intrinsic:
            return types.void(x, panel, acc, t, n, k, count), generate

        return tile

    def _multiply(self, builder: Builder, xs: Values, panel: Value, count: Value) -> list[Value]:
        """Return the sums of each token with each group of rows."""
        zero = ir.Constant(self.unit.totals_type, None)
        places = [cgutils.alloca_once(builder, zero.type) for _ in range(ROW_GROUPS * len(xs))]
        for place in places:
            builder.store(zero, place)
        size = 4 * self.unit.lanes
        with cgutils.for_range(builder, builder.udiv(count, INT64(CHUNK))) as loop:
            column = builder.mul(loop.index, INT64(CHUNK))
            first = builder.mul(loop.index, INT64(CHUNK * self.rows))
            activations = [self._activations(builder, move(builder, row, column)) for row in xs]
            for step in range(CHUNK // 4):
                at = move(builder, panel, builder.add(first, INT64(step * ROW_GROUPS * size)))
                weights = [
                    load_vector(builder, move(builder, at, INT64(i * size)), self.unit.bytes_type)
                    for i in range(ROW_GROUPS)
                ]
                for i, four in enumerate(activations):
                    x = four(step)
                    for group, weight in enumerate(weights):
                        place = places[i * ROW_GROUPS + group]
                        total = builder.load(place)
                        total = self.unit.dot_codes(builder, total, [weight], [x])
                        builder.store(total, place)
        return [builder.load(place) for place in places]

    def _activations(self, builder: Builder, pointer: Value) -> Callable[[int], Value]:
        """Return what loads the activations of a step, the same four in every lane."""
        lanes, kind = self.unit.lanes, self.unit.bytes_type
        if self.unit.multiplies_lane:
            chunk = load_vector(builder, pointer, ir.VectorType(INT32, CHUNK // 4))
            return lambda step: builder.bitcast(
                shuffle(builder, chunk, chunk, [step] * lanes), kind
            )

        def load(step: int) -> Value:
            one = ir.VectorType(INT32, 1)
            four = load_vector(builder, move(builder, pointer, INT64(4 * step)), one)
            return builder.bitcast(shuffle(builder, four, four, [0] * lanes), kind)

        return load


def ternary_panels(unit: VectorUnit) -> Panels:
    """Return the panels of weights in the layout ternary-2bit/v1."""

    def spread(builder: Builder, chunks: Values) -> list[Value]:
        # Bits 2p..2p+1 of a chunk's bytes 4d..4d+3 are columns 16p + 4d..16p + 4d+3.
        planes = []
        for plane in range(4):
            for chunk in chunks:
                # What a shift brings in from the neighbouring byte is masked off.
                shifted = builder.lshr(chunk, splat(chunk.type, 2 * plane))
                codes = builder.bitcast(shifted, unit.bytes_type)
                planes.append(builder.and_(codes, splat(unit.bytes_type, 3)))
        return planes

    return Panels(unit, BLOCK, CHUNK, spread)


def trit_panels(unit: VectorUnit) -> Panels:
    """Return the panels of weights in the layout ternary-5trit/v1."""

    def spread(builder: Builder, chunks: Values) -> list[Value]:
        vectors = [builder.bitcast(chunk, unit.bytes_type) for chunk in chunks]
        codes = [unit.spread_trits(builder, vector) for vector in vectors]
        return [code[place] for place in range(TRITS) for code in codes]

    return Panels(unit, TRITS * BLOCK, BLOCK, spread)


def int8_panels(unit: VectorUnit) -> Panels:
    """Return the panels of int8 weights."""

    def spread(builder: Builder, chunks: Values) -> list[Value]:
        return unit.biased(builder, [builder.bitcast(chunk, unit.bytes_type) for chunk in chunks])

    return Panels(unit, CHUNK, CHUNK, spread)


def signed_panels(unit: VectorUnit) -> Panels:
    """Return the panels of int8 weights as they are, for products of signed bytes."""

    def spread(builder: Builder, chunks: Values) -> list[Value]:
        return [builder.bitcast(chunk, unit.bytes_type) for chunk in chunks]

    return Panels(unit, CHUNK, CHUNK, spread)


def signed_ternary_panels(unit: VectorUnit) -> Panels:
    """Return the same of weights in the layout ternary-2bit/v1."""

    def spread(builder: Builder, chunks: Values) -> list[Value]:
        vectors = [builder.bitcast(chunk, unit.bytes_type) for chunk in chunks]
        return [
            unit.signed_field(builder, vector, plane) for plane in range(4) for vector in vectors
        ]

    return Panels(unit, BLOCK, CHUNK, spread)


def signed_trit_panels(unit: VectorUnit) -> Panels:
    """Return the same of weights in the layout ternary-5trit/v1."""
    layout = trit_panels(unit)

    def spread(builder: Builder, chunks: Values) -> list[Value]:
        codes = layout.spread(builder, chunks)
        return [builder.sub(code, splat(code.type, unit.ternary_bias)) for code in codes]

    return Panels(unit, layout.columns, layout.block_bytes, spread)


def _rows_from(builder: Builder, first: Value, stride: Value, count: int) -> list[Value]:
    """Return pointers to ``count`` rows, each as the one before it and the stride.

    To LLVM each comes out of an empty piece of assembly. Else it keeps a pointer for every row from
    one step of a loop to the next, more than there are registers: that took half of the time.
    """
    kind = ir.FunctionType(first.type, [first.type])
    rows = [first]
    for _ in range(count - 1):
        after = move(builder, rows[-1], stride)
        rows.append(builder.asm(kind, "", "=r,0", [after], side_effect=False))
    return rows


def _transpose(builder: Builder, rows: Values) -> list[Value]:
    """Return four vectors of int32; lane i of vector d has bytes 4d..4d+3 of row i."""
    lanes = len(rows)
    kind = ir.VectorType(INT32, 4)
    parts = []
    for i in range(4):  # 128 bits number q of part i are those of row 4q + i
        pieces = [load_vector(builder, row, kind) for row in rows[i::4]]
        parts.append(_join(builder, pieces))
    starts = range(0, lanes, 4)
    low = [s + i for s in starts for i in (0, lanes, 1, lanes + 1)]
    high = [s + i for s in starts for i in (2, lanes + 2, 3, lanes + 3)]
    first, second = [], []
    for a, b in ((parts[0], parts[1]), (parts[2], parts[3])):
        first.append(shuffle(builder, a, b, low))  # a0 b0 a1 b1
        second.append(shuffle(builder, a, b, high))  # a2 b2 a3 b3
    left = [s + i for s in starts for i in (0, 1, lanes, lanes + 1)]
    right = [s + i for s in starts for i in (2, 3, lanes + 2, lanes + 3)]
    return [
        shuffle(builder, *pair, indices) for pair in (first, second) for indices in (left, right)
    ]


def _join(builder: Builder, pieces: Values) -> Value:
    """Return the vectors one after the other; their number is a power of two."""
    while len(pieces) > 1:
        length = 2 * pieces[0].type.count
        pieces = [
            shuffle(builder, a, b, range(length))
            for a, b in zip(pieces[::2], pieces[1::2], strict=True)
        ]
    return pieces[0]
