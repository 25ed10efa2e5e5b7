"""Products with weights by input where bytes are multiplied in pairs, as LLVM: sums of 16 bits.

Two inputs at a time are interleaved, so that a product of pairs adds both to each output; sums stay
in 16 bits as long as they fit, and are then added to the outputs, in their order.
"""

# mypy: disable-error-code="no-untyped-call,untyped-decorator,call-arg"
# Numba's internals have no types. An intrinsic is declared with the typing context as its first
# argument, and called without.

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic, register_jitable

from edgellm.runtime.kernels._jit import PART_POLICY
from edgellm.runtime.kernels._scalar import Int, stack_int16
from edgellm.runtime.kernels.simd._bytes import FIELDS, field_of
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
)
from edgellm.runtime.kernels.vector._columns import (
    BLOCK_BYTES,
    INPUTS,
    LINE_BYTES,
    LINE_OUTPUTS,
    ColumnTile,
    Load,
)
from edgellm.runtime.kernels.vector._products import total
from edgellm.runtime.kernels.vector._tiles import bytes_of, matrix_rows, open_arrays

MOST_INPUTS = 80
"""Whose sums fit in 16 bits: 80 * 3 * 128 < 2^15."""
HALF = 8
"""Outputs of half a field of 64."""
WORD_BYTES = 2

Codes = npt.NDArray[np.int8]
Indices = npt.NDArray[np.int16]
Packed = npt.NDArray[np.uint8]
Sums = npt.NDArray[np.int32]
Place = tuple[Int, Int, Int]


class WordColumnTile(ColumnTile):
    """Adds the products of four inputs to sums of 16 bits.

    A vector of sums is of half a field: of 8 outputs of each of the blocks of 64 that a vector of
    bytes has. They are in the order of their parts of a line, halves, and fields.
    """

    def settle(self) -> Intrinsic:
        """Return the intrinsic ``settle(sums, size, acc)``.

        It adds the sums of ``size`` bytes of inputs to the outputs acc[: tokens], and zeroes them.
        """

        def generate(context: Context, builder: Builder, signature: Type, args: Values) -> Value:
            kinds = types.void(signature.args[0], signature.args[2])
            sums, acc = open_arrays(context, builder, kinds, [args[0], args[2]])
            rows = cgutils.unpack_tuple(builder, acc.shape)[0]
            with cgutils.for_range(builder, rows) as in_rows:
                (out,) = matrix_rows(builder, acc, in_rows.index, 1)
                with cgutils.for_range(builder, builder.udiv(args[1], INT64(BLOCK_BYTES))) as loop:
                    self._settle_block(builder, sums, (in_rows.index, loop.index), out)
            return context.get_dummy_value()

        @intrinsic
        def settle(_: Context, sums: Type, size: Type, acc: Type) -> Intrinsic:
            return types.void(sums, types.int64, acc), generate

        return settle

    def _settle_block(
        self, builder: Builder, sums: Value, place: tuple[Value, Value], out: Value
    ) -> None:
        """Add the sums of 64 outputs of a token, and zero them: (token, block) is their place."""
        token, block = place
        blocks = LINE_BYTES // BLOCK_BYTES
        quarters = self.unit.lanes // 4  # blocks of a vector
        line = builder.udiv(block, INT64(blocks))
        line = builder.add(builder.mul(line, INT64(self.tokens)), token)
        in_line = builder.urem(block, INT64(blocks))
        vector = builder.mul(builder.udiv(in_line, INT64(quarters)), INT64(2 * FIELDS * quarters))
        piece = builder.add(vector, builder.urem(in_line, INT64(quarters)))
        begin = builder.mul(line, INT64(WORD_BYTES * LINE_OUTPUTS))
        begin = builder.add(begin, builder.mul(piece, INT64(WORD_BYTES * HALF)))
        source = move(builder, bytes_of(builder, sums), begin)
        target = move(builder, out, builder.mul(block, INT64(4 * FIELDS * BLOCK_BYTES)))
        for half in range(2):
            for field in range(FIELDS):
                step = WORD_BYTES * HALF * quarters * (half * FIELDS + field)
                words = move(builder, source, INT64(step))
                at = move(builder, target, INT64(4 * (BLOCK_BYTES * field + HALF * half)))
                _add_words(builder, words, at)

    def _activations(self, builder: Builder, x: Value, at: Value) -> list[Value]:
        """Return for each token those of two inputs, and of the next two."""
        data, pairs = bytes_of(builder, x), []
        for token in range(self.tokens):
            place = move(builder, data, builder.add(at, INT64(token * self.span)))
            four = load_vector(builder, place, ir.VectorType(INT8, INPUTS))
            pairs.append([self.unit.word_factors(builder, four, i) for i in range(0, INPUTS, 2)])
        return pairs

    def _add_line(
        self, builder: Builder, line: Values, load: Load, activations: Values, out: Value
    ) -> None:
        """Add a line of four inputs, which begin at ``line``, to the sums at ``out``."""
        width, kind = 4 * self.unit.lanes, ir.VectorType(INT16, 2 * self.unit.lanes)
        for part in range(LINE_BYTES // width):
            vectors = [load(builder, pointer, part * width) for pointer in line]
            mixed = [self.unit.word_pairs(builder, *vectors[i : i + 2]) for i in (0, 2)]
            for half in range(2):
                for field in range(FIELDS):
                    codes = [field_of(builder, pair[half], field) for pair in mixed]
                    first = (part * 2 + half) * FIELDS + field
                    for token, factors in enumerate(activations):
                        index = token * LINE_OUTPUTS + first * kind.count
                        at = move(builder, out, INT64(WORD_BYTES * index))
                        place = builder.bitcast(at, kind.as_pointer())
                        words = builder.load(place, align=16)
                        for code, factor in zip(codes, factors, strict=True):
                            words = self.unit.dot_words(builder, words, code, factor)
                        builder.store(words, place, align=16)


def _add_words(builder: Builder, words: Value, target: Value) -> None:
    """Add sums of 16 bits to as many int32, and zero them."""
    narrow, wide = ir.VectorType(INT16, HALF), ir.VectorType(INT32, HALF)
    source = builder.bitcast(words, narrow.as_pointer())
    place = builder.bitcast(target, wide.as_pointer())
    more = builder.sext(builder.load(source, align=16), wide)
    builder.store(builder.add(builder.load(place, align=4), more), place, align=4)
    builder.store(ir.Constant(narrow, None), source, align=16)


@register_jitable(**PART_POLICY)
def subtract(number: np.int32, is_first: bool, out: Sums) -> None:
    """Subtract a number from all of some outputs; the first time these are 0."""
    for n in range(out.shape[0]):
        before = np.int32(0) if is_first else out[n]
        out[n] = np.int32(before - number)


def word_sums(unit: VectorUnit, tokens: int, span: int, most_lines: int) -> Callable[..., None]:
    """Return ``add(weight, live, values, count, (size, ahead, first), acc)``.

    It is as that of ``lane_sums`` in ``column_bit_linear``.
    """
    tile = WordColumnTile(unit, tokens, span, WORD_BYTES)
    add_lines, add_part, settle = tile.whole_lines(), tile.part_of_line(), tile.settle()
    sum_count = (most_lines + 1) * tokens * LINE_OUTPUTS

    @register_jitable(**PART_POLICY)
    def add(
        weight: Packed,
        live: Indices,
        values: Codes,
        count: Int,
        place: Place,
        acc: Sums,
    ) -> None:
        size, ahead, first = place
        lines, rest = size // LINE_BYTES, size % LINE_BYTES
        sums = stack_int16(sum_count)
        for i in range((lines + 1) * tokens * LINE_OUTPUTS):
            sums[i] = 0
        for t in range(acc.shape[0]):
            less = total(values[t * span : t * span + count])  # codes are weights + 1
            subtract(less, first == 0, acc[t, : size * FIELDS])
        behind = sums[lines * tokens * LINE_OUTPUTS :]
        tail = weight[:, lines * LINE_BYTES :]
        for begin in range(0, count, MOST_INPUTS):
            for at in range(begin, min(begin + MOST_INPUTS, count), INPUTS):
                add_lines(weight, live, values, sums, at, ahead, lines)
                if rest > 0:
                    add_part(tail, live, values, behind, at, rest)
            settle(sums, size, acc)

    return add
