"""Tiles of many tokens and rows of codes, where bytes are multiplied in pairs, as LLVM.

Sums of a part of a group stay in 16 bits: a lane has 16 products of an activation and a code less
its zero, 16 * 128 * 15. What takes them to 32 bits multiplies them by the scale. There they may
wrap around: their upper halves are added up as well, and tell how often they did.
"""

# mypy: disable-error-code="no-untyped-call,untyped-decorator"
# Numba's internals have no types.

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from edgellm.runtime.kernels.simd._lane_sums import sum_four
from edgellm.runtime.kernels.simd._unit import (
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
    splat,
    splat_value,
)
from edgellm.runtime.kernels.vector._tiles import matrix_rows, open_arrays
from edgellm.runtime.kernels.vector._wide_tiles import add_to_rows

ROWS, TOKENS = 2, 2
"""Of a tile: its sums of 16 and of 32 bits stay in registers."""
MOST_CODE = 15
PARTS = (128, 64, 32)
"""Columns of a part of a group, whose sums fit in 16 bits."""


def scaled_tile(unit: VectorUnit, columns: int) -> Intrinsic:
    """Return the intrinsic ``tile(x, codes, factors, totals, place, parts)``.

    To ``totals[t, n]``, for TOKENS from t and ROWS from n, it adds the products of ``x[t]`` with
    ``codes[n]`` times ``factors[row]``, which has one for each of so many parts of ``columns``, 16
    bits twice. A place is (t, n, row).
    """

    def generate(context: Context, builder: Builder, signature: Type, args: Values) -> Value:
        x, codes, factors, totals = open_arrays(context, builder, signature, args[:4])
        t, n, row = cgutils.unpack_tuple(builder, args[4])
        xs, rows = matrix_rows(builder, x, t, TOKENS), matrix_rows(builder, codes, n, ROWS)
        scales = matrix_rows(builder, factors, row, ROWS)
        sums = [_Wrapping(builder, unit) for _ in range(TOKENS * ROWS)]
        with cgutils.for_range(builder, args[5]) as loop:
            column = builder.mul(loop.index, INT64(columns))
            words = _sum_part(builder, unit, (xs, rows), column, columns)
            at = builder.mul(loop.index, INT64(4))
            pairs = [
                builder.load(builder.bitcast(move(builder, own, at), INT32.as_pointer()))
                for own in scales
            ]
            for i, (total, part) in enumerate(zip(sums, words, strict=True)):
                factor = splat_value(builder, pairs[i % ROWS], unit.lanes)
                total.add(builder, unit.scale_words(builder, part, factor))
        _add_totals(builder, sums, matrix_rows(builder, totals, t, TOKENS), n)
        return context.get_dummy_value()

    @intrinsic
    def tile(
        _: Context, x: Type, codes: Type, factors: Type, totals: Type, place: Type, parts: Type
    ) -> Intrinsic:
        return types.void(x, codes, factors, totals, place, parts), generate

    return tile


class _Wrapping:
    """A sum of vectors of int32, of up to 2^16 of them: modulo 2^32, and of their upper halves."""

    def __init__(self, builder: Builder, unit: VectorUnit) -> None:
        nothing = ir.Constant(unit.totals_type, None)
        self._whole, self._upper = (cgutils.alloca_once_value(builder, nothing) for _ in range(2))

    def add(self, builder: Builder, vector: Value) -> None:
        """Add a vector."""
        upper = builder.ashr(vector, splat(vector.type, 16))
        for place, part in ((self._whole, vector), (self._upper, upper)):
            builder.store(builder.add(builder.load(place), part), place)

    def parts(self, builder: Builder) -> tuple[Value, Value]:
        """Return the sums of the upper halves, and of the lower ones, which are no negative."""
        whole, upper = builder.load(self._whole), builder.load(self._upper)
        return upper, builder.sub(whole, builder.shl(upper, splat(upper.type, 16)))


def _sum_part(
    builder: Builder, unit: VectorUnit, operands: tuple[Values, Values], begin: Value, count: int
) -> list[Value]:
    """Return the sums of 16 bits of each token with each row, of so many columns from one on."""
    kind = ir.VectorType(INT16, 2 * unit.lanes)
    xs, rows = ([move(builder, one, begin) for one in own] for own in operands)
    sums = [ir.Constant(kind, None)] * (len(xs) * len(rows))
    for column in range(0, count, 4 * unit.lanes):
        activations, codes = (
            [
                load_vector(builder, move(builder, one, INT64(column)), unit.bytes_type)
                for one in own
            ]
            for own in (xs, rows)
        )
        pairs = ((x, code) for x in activations for code in codes)
        sums = [
            unit.dot_words(builder, total, x, code)
            for total, (x, code) in zip(sums, pairs, strict=True)
        ]
    return sums


def _add_totals(builder: Builder, sums: list[_Wrapping], totals: Values, n: Value) -> None:
    """Add the lanes of the sums of each token to its totals from n on."""
    wide = ir.VectorType(INT64, ROWS * TOKENS)
    upper, lower = (
        sum_four(builder, vectors)
        for vectors in zip(*(total.parts(builder) for total in sums), strict=True)
    )
    upper = builder.shl(builder.sext(upper, wide), splat(wide, 16))
    add_to_rows(builder, builder.add(upper, builder.zext(lower, wide)), totals, n)
