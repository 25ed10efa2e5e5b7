"""Products of many tokens with ternary weights where bytes are multiplied in pairs, as LLVM.

Codes, 0 to 2, of some rows are unpacked once for all tokens. Sums stay in 16 bits as long as they
fit, which saves what takes them to 32: an instruction for as many products as a vector has bytes,
and one to add them.
"""

# mypy: disable-error-code="no-untyped-call,untyped-decorator"
# Numba's internals have no types.

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic, register_jitable

from edgellm.runtime.kernels._jit import PART_POLICY
from edgellm.runtime.kernels._scalar import stack_int8
from edgellm.runtime.kernels.simd._unit import (
    BLOCK,
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
    per_quarter,
)
from edgellm.runtime.kernels.vector._tiles import (
    add_sums,
    as_matrix,
    bytes_of,
    matrix_rows,
    open_arrays,
    start_row,
)

ROWS, TOKENS = 2, 4
"""Of a tile: their sums stay in registers."""
SLAB_ROWS = 6 * ROWS
"""That are unpacked at once."""
SPAN = 4096
"""Columns of them."""
SLAB_BYTES = SLAB_ROWS * SPAN
CHUNK = 1024
"""Columns whose sums fit in 16 bits. A lane adds 64 products with AVX2, 128 with NEON, each from
-2 * 128 to 2 * 127: the least is -2^15."""
LEAST_TOKENS = 4
"""From so many tokens on, unpacking pays. (A server of 2021, AVX2, 2560 x 6912: 4 tokens take 0.87
of the time, 8 tokens 0.72.)"""

Codes = npt.NDArray[np.int8]
Packed = npt.NDArray[np.uint8]
Sums = npt.NDArray[np.int32]


def words_tile(unit: VectorUnit, tokens: int) -> Intrinsic:
    """Return the intrinsic ``tile(x, slab, acc, place)``, for so many tokens and ROWS rows.

    A place is (t, n, row): to ``acc[t, n]`` and the following it adds the products of x[t], a
    multiple of BLOCK columns, with those of ``slab[row]``, which begin with as many.
    """

    def generate(context: Context, builder: Builder, signature: Type, args: Values) -> Value:
        x, slab, acc = open_arrays(context, builder, signature, args[:3])
        t, n, row = cgutils.unpack_tuple(builder, args[3])
        columns = cgutils.unpack_tuple(builder, x.shape)[1]
        xs, rows = matrix_rows(builder, x, t, tokens), matrix_rows(builder, slab, row, ROWS)
        totals = [[_zero(builder, unit.totals_type) for _ in rows] for _ in xs]
        chunk = INT64(CHUNK)
        with cgutils.for_range_slice(builder, INT64(0), columns, chunk, INT64) as (begin, _):
            end = builder.add(begin, chunk)
            end = builder.select(builder.icmp_signed("<", end, columns), end, columns)
            for own, part in zip(
                totals, _sum_words(builder, unit, (xs, rows), begin, end), strict=True
            ):
                for total, words in zip(own, part, strict=True):
                    wide = unit.add_words(builder, builder.load(total), builder.load(words))
                    builder.store(wide, total)
        for own, out in zip(totals, matrix_rows(builder, acc, t, tokens), strict=True):
            for i, total in enumerate(own):
                place = builder.mul(builder.add(n, INT64(i)), INT64(4))
                add_sums(builder, move(builder, out, place), [builder.load(total)])
        return context.get_dummy_value()

    @intrinsic
    def tile(_: Context, x: Type, slab: Type, acc: Type, place: Type) -> Intrinsic:
        return types.void(x, slab, acc, place), generate

    return tile


def _sum_words(
    builder: Builder, unit: VectorUnit, operands: tuple[Values, Values], begin: Value, end: Value
) -> list[list[Value]]:
    """Return pointers to sums of 16 bits: of each token with each row, between two columns."""
    xs, rows = operands
    words = ir.VectorType(INT16, 2 * unit.lanes)
    sums = [[_zero(builder, words) for _ in rows] for _ in xs]
    step = INT64(4 * unit.lanes)
    with cgutils.for_range_slice(builder, begin, end, step, INT64) as (column, _):
        codes = [load_vector(builder, move(builder, row, column), unit.bytes_type) for row in rows]
        for x, own in zip(xs, sums, strict=True):
            activations = load_vector(builder, move(builder, x, column), unit.bytes_type)
            for place, code in zip(own, codes, strict=True):
                total = unit.dot_words(builder, builder.load(place), code, activations)
                builder.store(total, place)
    return sums


def _zero(builder: Builder, kind: Type) -> Value:
    """Return a pointer to a vector that is 0 from here on."""
    return cgutils.alloca_once_value(builder, ir.Constant(kind, None))


def unpack_tile(unit: VectorUnit) -> Intrinsic:
    """Return the intrinsic ``unpack(packed, n, begin, blocks, out)``, for ternary-2bit/v1.

    It writes the codes of so many blocks of row n, from the byte ``begin`` on, to a row of bytes.
    """

    def generate(context: Context, builder: Builder, signature: Type, args: Values) -> Value:
        packed, out = open_arrays(
            context, builder, types.void(signature.args[0], signature.args[4]), [args[0], args[4]]
        )
        n, begin, blocks = args[1:4]
        first = move(builder, matrix_rows(builder, packed, n, 1)[0], begin)
        with cgutils.for_range(builder, blocks) as loop:
            at = move(builder, first, builder.mul(loop.index, INT64(BLOCK // 4)))
            place = move(builder, bytes_of(builder, out), builder.mul(loop.index, INT64(BLOCK)))
            for i, vector in enumerate(unit.ternary_codes(builder, at)):
                wide = ir.VectorType(INT64, vector.type.count // 8)
                # Codes are shifted left by no more than there are bits below them.
                codes = builder.bitcast(vector, wide)
                codes = builder.lshr(codes, per_quarter(wide, unit.ternary_shifts))
                pointer = move(builder, place, INT64(i * vector.type.count))
                builder.store(codes, builder.bitcast(pointer, wide.as_pointer()), align=1)
        return context.get_dummy_value()

    @intrinsic
    def unpack(
        _: Context, packed: Type, n: Type, begin: Type, blocks: Type, out: Type
    ) -> Intrinsic:
        return types.void(packed, n, begin, blocks, out), generate

    return unpack


def multiply_slab(unit: VectorUnit) -> Callable[[Codes, Codes, Sums], None]:
    """Return ``multiply(x, slab, acc)``: add the products of all tokens with SLAB_ROWS rows.

    x has a multiple of BLOCK columns, at most those of the slab.
    """
    many, one = words_tile(unit, TOKENS), words_tile(unit, 1)

    @register_jitable(**PART_POLICY)
    def multiply(x: Codes, slab: Codes, acc: Sums) -> None:
        grouped = x.shape[0] // TOKENS * TOKENS
        for t in range(0, grouped, TOKENS):
            for row in range(0, SLAB_ROWS, ROWS):
                many(x, slab, acc, (t, row, row))
        for t in range(grouped, x.shape[0]):
            for row in range(0, SLAB_ROWS, ROWS):
                one(x, slab, acc, (t, row, row))

    return multiply


def multiply_words(unit: VectorUnit, few: Callable[..., None]) -> Callable[..., None]:
    """Return ``multiply(x, rest, weight, acc, starts)`` as ``few`` is.

    It unpacks weights where there are rows and tokens enough.
    """
    multiply_rows, unpack = multiply_slab(unit), unpack_tile(unit)
    block_bytes = BLOCK // 4

    @register_jitable(**PART_POLICY)
    def multiply(x: Codes, rest: Codes, weight: Packed, acc: Sums, starts: Sums) -> None:
        rows = weight.shape[0]
        if x.shape[0] < LEAST_TOKENS or rows < SLAB_ROWS:
            few(x, rest, weight, acc, starts)
            return
        slab: Codes = as_matrix(stack_int8(SLAB_BYTES), SPAN)
        whole = x.shape[1] // BLOCK * BLOCK
        for first in range(0, rows, SLAB_ROWS):
            n = min(first, rows - SLAB_ROWS)
            out = acc[:, n : n + SLAB_ROWS]
            for t in range(x.shape[0]):
                start_row(out, t, starts[t])  # also of rows that the last slab has once more
            for k in range(0, whole, SPAN):
                end = min(k + SPAN, whole)
                for i in range(SLAB_ROWS):
                    unpack(weight, n + i, k // 4, (end - k) // BLOCK, slab[i])
                multiply_rows(x[:, k:end], slab, out)
            if whole < x.shape[1]:
                for i in range(SLAB_ROWS):
                    unpack(weight, n + i, weight.shape[1] - block_bytes, np.int64(1), slab[i])
                multiply_rows(rest[: x.shape[0]], slab, out)

    return multiply
