"""The innermost loop of products with weights by input, as LLVM: four inputs times some tokens.

A line is 64 bytes of an input's weights: its codes for 256 outputs. The lines of four inputs are
interleaved byte by byte, so that four neighbours meet the four activations in one dot product.
"""

# mypy: disable-error-code="no-untyped-call,untyped-decorator"
# Numba's internals have no types.

from collections.abc import Callable
from dataclasses import dataclass

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from edgellm.runtime.kernels.simd._bytes import FIELDS, unpack
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
    shuffle,
)
from edgellm.runtime.kernels.vector._tiles import NEAR, bytes_of, open_arrays, prefetch, row_stride

INPUTS = 4
"""Inputs of a step: the products that a lane of a dot product adds."""
LINE_BYTES = 64
LINE_OUTPUTS = 256
BLOCK_BYTES = 16
"""Bytes of an input for 64 outputs."""

Load = Callable[[Builder, Value, int], Value]
"""(builder, pointer, byte) -> a vector of the bytes from there."""


@dataclass(frozen=True)
class ColumnTile:
    """Adds the products of four inputs to the sums of some tokens.

    The sums of a line and a token are LINE_OUTPUTS int32 in the order in which the dot products
    give them, see ``place_of``, each shifted left by the ``column_shifts`` of its field.

    Attributes:
        unit: whose instructions.
        tokens: how many.
        span: activations from one token to the next.
        sum_bytes: of a sum.
    """

    unit: VectorUnit
    tokens: int
    span: int
    sum_bytes: int = 4

    def whole_lines(self) -> Intrinsic:
        """Return the intrinsic ``add(weight, live, x, sums, at, ahead, lines)``.

        Add to the sums the first lines of the inputs ``live[at : at + 4]`` times ``x[t, at...]``,
        and prefetch those of ``live[at + ahead...]``. A row of weight has the bytes of an input.
        """

        def generate(context: Context, builder: Builder, signature: Type, args: Values) -> Value:
            weight, live, x, sums = open_arrays(context, builder, signature, args[:4])
            at, ahead, lines = args[4:]
            inputs = self._inputs(builder, weight, live, at)
            coming = self._inputs(builder, weight, live, builder.add(at, ahead))
            activations = self._activations(builder, x, at)
            with cgutils.for_range(builder, lines) as loop:
                offset = builder.mul(loop.index, INT64(LINE_BYTES))
                for pointer in coming:
                    prefetch(builder, move(builder, pointer, offset), NEAR)
                size = self.sum_bytes * LINE_OUTPUTS * self.tokens
                out = move(builder, bytes_of(builder, sums), builder.mul(loop.index, INT64(size)))
                line = [move(builder, pointer, offset) for pointer in inputs]
                self._add_line(builder, line, self._load, activations, out)
            return context.get_dummy_value()

        @intrinsic
        def add(
            _: Context,
            weight: Type,
            live: Type,
            x: Type,
            sums: Type,
            at: Type,
            ahead: Type,
            lines: Type,
        ) -> Intrinsic:
            return types.void(weight, live, x, sums, at, ahead, lines), generate

        return add

    def part_of_line(self) -> Intrinsic:
        """Return the intrinsic ``add(weight, live, x, sums, at, size)``.

        Do the same with the first ``size`` bytes of a line, a multiple of 16.
        """

        def generate(context: Context, builder: Builder, signature: Type, args: Values) -> Value:
            weight, live, x, sums = open_arrays(context, builder, signature, args[:4])
            at, size = args[4:]
            inputs = self._inputs(builder, weight, live, at)
            activations = self._activations(builder, x, at)

            def load(builder: Builder, pointer: Value, byte: int) -> Value:
                return self._load_some(builder, pointer, byte, size)

            self._add_line(builder, inputs, load, activations, bytes_of(builder, sums))
            return context.get_dummy_value()

        @intrinsic
        def add(
            _: Context, weight: Type, live: Type, x: Type, sums: Type, at: Type, size: Type
        ) -> Intrinsic:
            return types.void(weight, live, x, sums, at, size), generate

        return add

    def _inputs(self, builder: Builder, weight: Value, live: Value, at: Value) -> list[Value]:
        """Return byte pointers to the weights of four inputs."""
        pointers = []
        for i in range(INPUTS):
            index = builder.load(builder.gep(live.data, [builder.add(at, INT64(i))]))
            distance = builder.mul(builder.zext(index, INT64), row_stride(builder, weight))
            pointers.append(move(builder, bytes_of(builder, weight), distance))
        return pointers

    def _activations(self, builder: Builder, x: Value, at: Value) -> list[Value]:
        """Return for each token its four activations in every lane."""
        data, vectors = bytes_of(builder, x), []
        for token in range(self.tokens):
            place = move(builder, data, builder.add(at, INT64(token * self.span)))
            four = load_vector(builder, place, ir.VectorType(INT32, 1))
            lanes = shuffle(builder, four, four, [0] * self.unit.lanes)
            vectors.append(builder.bitcast(lanes, self.unit.bytes_type))
        return vectors

    def _load(self, builder: Builder, pointer: Value, byte: int) -> Value:
        return load_vector(builder, move(builder, pointer, INT64(byte)), self.unit.bytes_type)

    def _load_some(self, builder: Builder, pointer: Value, byte: int, size: Value) -> Value:
        """Load a vector of which only what lies within ``size`` bytes of the line is read."""
        kind = self.unit.totals_type
        places = [*range(byte, byte + 4 * kind.count, 4)]
        ends = ir.Constant(ir.VectorType(INT64, kind.count), places)
        limit = builder.insert_element(ir.Constant(ends.type, ir.Undefined), size, INT32(0))
        limits = shuffle(builder, limit, limit, [0] * kind.count)
        mask = builder.icmp_unsigned("<", ends, limits)
        place = builder.bitcast(move(builder, pointer, INT64(byte)), kind.as_pointer())
        arguments = [place, INT32(1), mask, ir.Constant(kind, None)]
        name = f"llvm.masked.load.v{kind.count}i32.p0"
        return builder.bitcast(call(builder, name, kind, arguments), self.unit.bytes_type)

    def _add_line(
        self, builder: Builder, line: Values, load: Load, activations: Values, out: Value
    ) -> None:
        """Add a line of four inputs, which begin at ``line``, to the sums at ``out``."""
        width, kind = 4 * self.unit.lanes, self.unit.totals_type
        for part in range(LINE_BYTES // width):
            vectors = [load(builder, pointer, part * width) for pointer in line]
            for v, mixed in enumerate(interleave(builder, vectors)):
                for field in range(FIELDS):
                    codes = self.unit.column_codes(builder, mixed, field)
                    first = (part * INPUTS + v) * FIELDS + field
                    for token, x in enumerate(activations):
                        index = token * LINE_OUTPUTS + first * self.unit.lanes
                        place = builder.bitcast(
                            move(builder, out, INT64(4 * index)), kind.as_pointer()
                        )
                        total = builder.load(place, align=64 if width == LINE_BYTES else 16)
                        total = self.unit.dot_lanes(builder, total, codes, x)
                        builder.store(total, place, align=64 if width == LINE_BYTES else 16)


def live_mask(tokens: int) -> Intrinsic:
    """Return the intrinsic ``mask(x, k)``: which of x[:, k : k + 64] are not zero for every token.

    Bit i of the int64 is for column k + i. x has up to ``tokens`` rows, or more that are not seen.
    """

    def generate(context: Context, builder: Builder, signature: Type, args: Values) -> Value:
        (x,) = open_arrays(context, builder, signature, args[:1])
        last = builder.sub(cgutils.unpack_tuple(builder, x.shape)[0], INT64(1))
        kind = ir.VectorType(INT8, 64)
        found = ir.Constant(kind, None)
        for token in range(tokens):
            more = builder.icmp_signed("<", last, INT64(token))
            row = builder.mul(builder.select(more, last, INT64(token)), row_stride(builder, x))
            place = move(builder, bytes_of(builder, x), builder.add(row, args[1]))
            found = builder.or_(found, load_vector(builder, place, kind))
        live = builder.icmp_unsigned("!=", found, ir.Constant(kind, None))
        return builder.bitcast(live, INT64)

    @intrinsic
    def mask(_: Context, x: Type, k: Type) -> Intrinsic:
        return types.int64(x, k), generate

    return mask


@intrinsic
def trailing_zeros(_: Context, mask: Type) -> Intrinsic:
    """``trailing_zeros(mask)``: the number of the lowest set bit of an int64 that is not 0."""

    def generate(_context: Context, builder: Builder, _signature: Type, args: Values) -> Value:
        return builder.cttz(args[0], ir.IntType(1)(1))

    return types.int64(mask), generate


def place_of(lanes: int, block: int, field: int, byte: int) -> int:
    """Return where the sums of a line have an output.

    Args:
        lanes: of the unit whose dot products made the sums.
        block: of 64 outputs, in the line.
        field: which bits of a byte have its code.
        byte: 0..15, which byte of the block.
    """
    quarters = lanes // 4  # 128 bits of a vector
    vector = block // quarters * INPUTS + byte // 4
    return (vector * FIELDS + field) * lanes + block % quarters * 4 + byte % 4


def interleave(builder: Builder, vectors: Values) -> list[Value]:
    """Interleave four vectors of bytes within each 128 bits.

    Returns:
        Four vectors: of every 16 bytes of each input, number v has bytes 4v..4v+3, those of the
        same number side by side.
    """
    a, b, c, d = vectors
    words = ir.VectorType(INT16, a.type.count // 2)
    pairs = [
        [builder.bitcast(half, words) for half in unpack(builder, *pair)]
        for pair in ((a, b), (c, d))
    ]
    mixed = [half for low, high in zip(*pairs, strict=True) for half in unpack(builder, low, high)]
    return [builder.bitcast(vector, a.type) for vector in mixed]
