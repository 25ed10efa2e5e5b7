"""Products of many tokens with codes of up to four bits, where a lane adds products of bytes.

A lane is an output: its codes of four columns lie side by side, and are multiplied with as many
activations at once. They are laid out once for the tokens of a pass, a span of columns of 16 rows
at a time, so that these stay in the first cache. Sums stay in 16 bits for 32 columns: a word has 16
products, |sum| <= 16 * 15 * 128.
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

from edgellm.runtime.kernels._bit_planes import ROWS, first_row, last_row, sum_of, write_rounded
from edgellm.runtime.kernels._jit import PART_POLICY
from edgellm.runtime.kernels._scalar import Int, stack_int8, stack_int32, stack_int64
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
    splat_value,
)
from edgellm.runtime.kernels.vector._attention_tiles import zeros
from edgellm.runtime.kernels.vector._codes import unpack
from edgellm.runtime.kernels.vector._tiles import as_matrix, bytes_of, matrix_rows, open_arrays
from edgellm.runtime.kernels.vector._word_panels import COLUMNS, VECTORS, transpose

NEVER = 1 << 62
LEAST_TOKENS = (NEVER, 36, 20, 12)
"""By planes, from so many tokens on it pays to unpack. (Zen 3, 1024 x 3072, groups of 128: one by
one, tokens take 33, 45, 75, 105 us each; together they take 800 and 26 to 39 each.)"""
LEAST_OF_OTHERS = 8
"""The same of other codes and groups."""
PASS = 128
"""Tokens that there is scratch memory for."""
TOGETHER = 4
"""Tokens of a tile: its sums of 16 bits stay in registers."""
MOST_BITS = 4
LANE = 4
"""Columns that a lane multiplies at once."""
CHUNK = 32
"""Columns whose sums fit in 16 bits."""
SPAN = 1024
"""Columns that are unpacked at once."""
STEP_BYTES = LANE * COLUMNS
CODE_BYTES, PANEL_BYTES = ROWS * SPAN, COLUMNS * SPAN
TOTAL_WORDS, SUM_WORDS = PASS * ROWS, PASS * SPAN // CHUNK
MOST_PARTS = SPAN // CHUNK
GRID_WORDS = MOST_PARTS * ROWS

Codes = npt.NDArray[np.int8]
Planes = npt.NDArray[np.uint8]
Scales = npt.NDArray[np.int16]
Zeros = npt.NDArray[np.uint8]
Sums = npt.NDArray[np.int32]
Totals = npt.NDArray[np.int64]
Grid = tuple[Scales, Zeros]
Range = tuple[Int, Int]
Place = tuple[Int, Int, Int]


def small_code_panels(unit: VectorUnit, others: Callable[..., bool]) -> Callable[..., bool]:
    """Return ``products`` as ``_code_products.group_products`` does; ``others`` are such.

    These are called where codes or groups do not suit.
    """
    add_block, lanes = block_products(unit), unit.lanes

    @register_jitable(**PART_POLICY)
    def products(
        x: Codes, planes: Planes, grid: Grid, acc: Sums, rows: Range, numbers: Range
    ) -> bool:
        (begin, end), (size, shift) = rows, numbers
        bits = planes.shape[2]
        suits = size % CHUNK == 0 and x.shape[1] % CHUNK == 0 and bits <= MOST_BITS
        if x.shape[0] < (LEAST_TOKENS[bits - 1] if suits else LEAST_OF_OTHERS):
            return False
        if not suits:
            return others(x, planes, grid, acc, rows, numbers)
        totals: Totals = as_matrix(stack_int64(TOTAL_WORDS), ROWS)
        ordered = stack_int64(ROWS)
        for t in range(0, x.shape[0], PASS):
            some = x[t : t + PASS]
            for block in range(begin // ROWS, (end + ROWS - 1) // ROWS):
                first, last = first_row(block, begin), last_row(block, end)
                own = totals[: some.shape[0]]
                own[:] = 0
                add_block(some, planes[block], grid, (first, last, size), own)
                for i in range(some.shape[0]):
                    put_in_order(own[i], lanes, ordered)
                    write_rounded(ordered[first % ROWS :], shift, acc[t + i][first:last])
        return True

    return products


@register_jitable(**PART_POLICY)
def put_in_order(totals: Totals, lanes: Int, out: Totals) -> None:
    """Write totals, of whose vectors the even lanes come first, as rows follow each other."""
    for begin in range(0, ROWS, lanes):
        for i in range(lanes // 2):
            out[begin + 2 * i] = totals[begin + i]
            out[begin + 2 * i + 1] = totals[begin + lanes // 2 + i]


@register_jitable(**PART_POLICY)
def end_of_part(column: Int, end: Int, size: Int) -> Int:
    """Return where the part of a group that begins at a column ends, at last where a span does."""
    return min((column // size + 1) * size, end)


@register_jitable(**PART_POLICY)
def copy_grid(grid: Grid, place: Place, span: Range, scales: Sums, zeros: Sums) -> Int:
    """Copy what the rows of a block have for each part of a span; return how many parts.

    Rows that are not asked for, and those behind the last, have 0.
    """
    (first, last, size), (column, end) = place, span
    block, parts = first // ROWS * ROWS, 0
    while column < end:
        own, its = scales[parts * ROWS :], zeros[parts * ROWS :]
        for row in range(ROWS):
            inside = first <= block + row < last
            own[row] = grid[0][column // size, block + row] if inside else 0
            its[row] = grid[1][column // size, block + row] if inside else 0
        column = end_of_part(column, end, size)
        parts += 1
    return np.int64(parts)


def block_products(unit: VectorUnit) -> Callable[..., None]:
    """Return ``add_block(x, planes, grid, (first, last, size), totals)``.

    It adds the products of the tokens with the rows of a block from ``first`` to ``last``. Totals
    are (tokens, 64), of each vector first the even lanes.
    """
    unpack_codes, fill = unpack(unit), code_filler(unit)
    four, one = code_tile(unit, TOGETHER), code_tile(unit, 1)

    @register_jitable(**PART_POLICY)
    def add_block(x: Codes, planes: Planes, grid: Grid, place: Place, totals: Totals) -> None:
        tokens, columns = x.shape
        codes: Codes = as_matrix(stack_int8(CODE_BYTES), SPAN)
        panel = stack_int8(PANEL_BYTES)
        scales, zeros = stack_int32(GRID_WORDS), stack_int32(GRID_WORDS)
        sums: Sums = as_matrix(stack_int32(SUM_WORDS), MOST_PARTS)
        grouped = tokens // TOGETHER * TOGETHER
        for column in range(0, columns, SPAN):
            end = min(column + SPAN, columns)
            unpack_codes(planes[column // 8 :], (end - column) // 8, codes)
            parts = copy_grid(grid, place, (column, end), scales, zeros)
            add_up(x, (column, end, place[2]), sums)
            for row in range(0, ROWS, COLUMNS):
                fill(codes, panel, (row, end - column))
                numbers = (column, end, place[2], parts, row)
                for t in range(0, grouped, TOGETHER):
                    four(x, panel, scales, zeros, sums, totals, t, numbers)
                for t in range(grouped, tokens):
                    one(x, panel, scales, zeros, sums, totals, t, numbers)

    return add_block


@register_jitable(**PART_POLICY)
def add_up(x: Codes, place: Place, sums: Sums) -> None:
    """Write the sums of the activations of each part of a span."""
    begin, end, size = place
    for t in range(x.shape[0]):
        column, part = begin, 0
        while column < end:
            after = end_of_part(column, end, size)
            sums[t, part] = sum_of(x[t, column:after])
            column = after
            part += 1


def code_filler(unit: VectorUnit) -> Intrinsic:
    """Return ``fill(codes, panel, (row, columns))``: lay COLUMNS rows of bytes out."""
    lanes = unit.lanes

    def generate(context: Context, builder: Builder, signature: Type, args: Values) -> Value:
        codes, panel = open_arrays(context, builder, signature, args[:2])
        row, columns = cgutils.unpack_tuple(builder, args[2])
        rows = matrix_rows(builder, codes, row, COLUMNS)
        with cgutils.for_range(builder, builder.udiv(columns, INT64(LANE * lanes))) as loop:
            column = builder.mul(loop.index, INT64(LANE * lanes))
            target = move(builder, bytes_of(builder, panel), builder.mul(column, INT64(COLUMNS)))
            for i in range(VECTORS):
                own = [
                    load_vector(builder, move(builder, one, column), unit.totals_type)
                    for one in rows[i * lanes : (i + 1) * lanes]
                ]
                for number, vector in enumerate(transpose(builder, unit, own)):
                    at = move(builder, target, INT64(number * STEP_BYTES + i * LANE * lanes))
                    builder.store(vector, builder.bitcast(at, vector.type.as_pointer()), align=1)
        return context.get_dummy_value()

    @intrinsic
    def fill(_: Context, codes: Type, panel: Type, place: Type) -> Intrinsic:
        return types.void(codes, panel, place), generate

    return fill


def code_tile(unit: VectorUnit, tokens: int) -> Intrinsic:
    """Return ``add(x, panel, scales, zeros, sums, totals, t, place)``: of some tokens from t on.

    A place is (column, end, size, parts, row): the columns of x that the panel is of, those of a
    group, how many parts of groups there are, and the first row in the block. To ``totals[t, row]``
    and the following it adds ``scale * (codes . x - zero * sum)`` of each part; scales and zeros
    have ROWS for each, sums (T, MOST_PARTS) what activations add up to.
    """

    def generate(context: Context, builder: Builder, signature: Type, args: Values) -> Value:
        arrays = open_arrays(context, builder, signature, args[:6])
        x, panel, scales, zeros, sums, totals = arrays
        column, end, size, parts, row = cgutils.unpack_tuple(builder, args[7])
        xs = matrix_rows(builder, x, args[6], tokens)
        wholes = matrix_rows(builder, sums, args[6], tokens)
        outs = matrix_rows(builder, totals, args[6], tokens)
        at = cgutils.alloca_once_value(builder, column)
        with cgutils.for_range(builder, parts) as loop:
            start = builder.load(at)
            group = builder.mul(builder.add(builder.sdiv(start, size), INT64(1)), size)
            stop = builder.select(builder.icmp_signed("<", group, end), group, end)
            builder.store(stop, at)
            offset = builder.mul(builder.sub(start, column), INT64(COLUMNS))
            steps = move(builder, bytes_of(builder, panel), offset)
            own = [move(builder, one, start) for one in xs]
            found = _part_sums(builder, unit, own, steps, builder.sub(stop, start))
            first = builder.add(builder.mul(loop.index, INT64(ROWS)), row)
            grid = [builder.gep(array.data, [first]) for array in (scales, zeros)]
            for part, whole, out in zip(found, wholes, outs, strict=True):
                place = move(builder, whole, builder.mul(loop.index, INT64(4)))
                number = builder.load(builder.bitcast(place, INT32.as_pointer()))
                _add_scaled(
                    builder, unit, part, (number, grid), move(builder, out, _words(builder, row))
                )
        return context.get_dummy_value()

    @intrinsic
    def add(
        _: Context,
        x: Type,
        panel: Type,
        scales: Type,
        zeros: Type,
        sums: Type,
        totals: Type,
        t: Type,
        place: Type,
    ) -> Intrinsic:
        return types.void(x, panel, scales, zeros, sums, totals, t, place), generate

    return add


def _words(builder: Builder, count: Value) -> Value:
    """Return how many bytes so many int64 are."""
    return builder.mul(count, INT64(8))


def _part_sums(
    builder: Builder, unit: VectorUnit, xs: Values, panel: Value, columns: Value
) -> list[list[Value]]:
    """Return the products of each token with a part of a panel, as vectors of int32."""
    totals = [zeros(builder, unit, VECTORS) for _ in xs]
    with cgutils.for_range(builder, builder.udiv(columns, INT64(CHUNK))) as loop:
        column = builder.mul(loop.index, INT64(CHUNK))
        steps = move(builder, panel, builder.mul(column, INT64(COLUMNS)))
        words = _chunk_sums(builder, unit, [move(builder, x, column) for x in xs], steps)
        for own, parts in zip(totals, words, strict=True):
            for total, part in zip(own, parts, strict=True):
                builder.store(unit.add_words(builder, builder.load(total), part), total)
    return [[builder.load(total) for total in own] for own in totals]


def _chunk_sums(builder: Builder, unit: VectorUnit, xs: Values, steps: Value) -> list[list[Value]]:
    """Return the same of a chunk, as sums of 16 bits of which two are of a lane."""
    kind = ir.VectorType(INT16, 2 * unit.lanes)
    sums = [[ir.Constant(kind, None)] * VECTORS for _ in xs]
    for step in range(CHUNK // LANE):
        codes = [
            load_vector(
                builder,
                move(builder, steps, INT64(step * STEP_BYTES + i * LANE * unit.lanes)),
                unit.bytes_type,
            )
            for i in range(VECTORS)
        ]
        for t, x in enumerate(xs):
            place = builder.bitcast(move(builder, x, INT64(step * LANE)), INT32.as_pointer())
            four = splat_value(builder, builder.load(place, align=1), unit.lanes)
            factors = builder.bitcast(four, unit.bytes_type)
            sums[t] = [
                unit.dot_words(builder, total, code, factors)
                for total, code in zip(sums[t], codes, strict=True)
            ]
    return sums


def _add_scaled(
    builder: Builder, unit: VectorUnit, parts: Values, facts: tuple[Value, Values], out: Value
) -> None:
    """Add ``scale * (part - zero * whole)`` to int64; facts are whole, and where the grid is.

    They are in the order in which the unit widens: of a vector first the even lanes.
    """
    whole, (scales, zeros) = facts
    narrow = unit.totals_type
    for i, part in enumerate(parts):
        scale, zero = (
            builder.load(
                builder.bitcast(builder.gep(place, [INT64(i * unit.lanes)]), narrow.as_pointer()),
                align=4,
            )
            for place in (scales, zeros)
        )
        less = builder.mul(zero, splat_value(builder, whole, unit.lanes))
        centered = builder.sub(part, less)
        factors = zip(unit.widen(builder, centered), unit.widen(builder, scale), strict=True)
        for half, pair in enumerate(factors):
            product = builder.mul(*pair)
            place = move(builder, out, INT64(8 * (i * unit.lanes + half * unit.lanes // 2)))
            pointer = builder.bitcast(place, product.type.as_pointer())
            builder.store(builder.add(builder.load(pointer, align=8), product), pointer, align=8)
