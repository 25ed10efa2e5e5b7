"""One token times sums of binary matrices by look-ups of words: 16 columns of a row, three tables.

A word is a row's byte of an octet and that of the next: five of its bits choose one of 32 sums of
five activations, five again, four one of 16; the last two add an activation or do not. So tables
take 10 bytes a column, and those of 4096 columns stay in the first cache beside what is read.
Entries have 16 bits, so what a plane chooses need not be widened, whatever the activations are; and
blocks of rows are read in the order of memory.
"""

# mypy: disable-error-code="no-untyped-call,untyped-decorator"
# Numba's internals have no types.

from collections.abc import Callable, Sequence
from functools import reduce

import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic, register_jitable

from edgellm.runtime import cpu
from edgellm.runtime.kernels._bit_planes import ROWS, write_rounded
from edgellm.runtime.kernels._jit import PART_POLICY
from edgellm.runtime.kernels._scalar import Int, stack_int16, stack_int64
from edgellm.runtime.kernels.simd._bytes import unpack
from edgellm.runtime.kernels.simd._unit import (
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
    shuffle,
    splat,
    splat_value,
)
from edgellm.runtime.kernels.vector._look_up_tables import OCTET, SPAN_OCTETS, TOGETHER_BYTES
from edgellm.runtime.kernels.vector._plane_blocks import lesser
from edgellm.runtime.kernels.vector._shift_blocks import MOST_PLANES
from edgellm.runtime.kernels.vector._shift_scales import IN_ORDER, RowScales
from edgellm.runtime.kernels.vector._tiles import (
    LINE_BYTES,
    NEAR,
    bytes_of,
    open_arrays,
    prefetch,
)

HOSTS = {"znver4", "znver5"}
"""Where it was measured to be faster than ``_look_ups``. (Zen 5, 4096 x 4096 with 1, 2 and 4 bits:
0.74, 0.76 and 0.84 of the time from memory, 0.71 to 0.75 from the third cache. Zen 4, from memory,
2, 3 and 4 bits: 0.67, 0.73 and 0.77; 0.92, 0.94 and 1 if the first cache is prefetched into.)"""
COLUMNS = 16
FIVE, FOUR, LAST = 32, 16, 2
"""Entries of a table of five columns, of one of four, and how many columns are added alone."""
TABLE_WORDS = FIVE + FIVE + FOUR + LAST
"""Of 16 columns. (With tables of six, five and five instead, 128 words, Zen 5 takes 0.8 of the time
from caches, but 1.02 to 1.09 times as long from memory, with 4096 columns as with 1024.)"""
MOST_COLUMNS = 16_384
TABLES = MOST_COLUMNS // COLUMNS * TABLE_WORDS
AHEAD_BYTES = 8192
"""How far ahead weights are prefetched. (Zen 5, 4096 x 4096 from memory: 4 KB take 1.14 to 1.31
times as long, 6 KB 1.05 to 1.11, 10 KB 0.98 to 1.02, 16 KB 1.01 to 1.05. Zen 4: 4 KB 1.15 to 1.19,
6 KB 1 to 1.03, 12 and 16 KB 0.98 to 1.03, not prefetched 1.4 to 2.4.)"""

Codes = npt.NDArray[np.int8]
Planes = npt.NDArray[np.uint8]
Alphas = npt.NDArray[np.uint8]
Tables = npt.NDArray[np.int16]
Sums = npt.NDArray[np.int32]
Totals = npt.NDArray[np.int64]
Range = tuple[Int, Int]
Numbers = tuple[Int, Int, Int]


def has_word_look_ups(unit: VectorUnit) -> bool:
    """Tell whether a unit has them, on a machine where they are faster."""
    return unit.looks_up_words and cpu.host().name in HOSTS


def word_products(unit: VectorUnit) -> Callable[..., Int]:
    """Return ``products(x, planes, alphas, acc, (begin, end), (group_size, shift, terms))``.

    For the rows from begin on: what ShiftAddLinear means. It returns where it ended: at the last
    whole block, or where it began if it takes no such planes.
    """
    add_block = _block_sums(unit)

    @register_jitable(**PART_POLICY)
    def products(
        x: Codes, planes: Planes, alphas: Alphas, acc: Sums, rows: Range, numbers: Numbers
    ) -> Int:
        (begin, end), (size, shift, terms), columns = rows, numbers, x.shape[1]
        fits = columns % COLUMNS == 0 and size % COLUMNS == 0 and columns <= MOST_COLUMNS
        if not fits or planes.shape[2] > MOST_PLANES:
            return begin
        first, last = begin // ROWS, min((end + ROWS - 1) // ROWS, alphas.shape[0] // ROWS)
        tables, totals = stack_int16(TABLES), stack_int64(ROWS)
        table_words = columns // COLUMNS * TABLE_WORDS
        tokens = max(TOGETHER_BYTES // (2 * table_words), 1)
        for t in range(0, x.shape[0], tokens):
            some = x[t : t + tokens]
            for i in range(some.shape[0]):
                fill_tables(some[i], tables[i * table_words :])
            for block in range(first, last):
                row, row_end = max(block * ROWS, begin), min(block * ROWS + ROWS, end)
                place = size // OCTET, terms, block
                for i in range(some.shape[0]):
                    own_tables = tables[i * table_words :]
                    add_block(planes[block], own_tables, alphas, place, totals)
                    write_rounded(totals[row % ROWS :], shift, acc[t + i][row:row_end])
        return max(min(last * ROWS, end), begin)

    return products


@intrinsic
def fill_tables(_: Context, x: Type, tables: Type) -> Intrinsic:
    """``fill_tables(x, tables)``: the sums of whole sixteens of columns, added or subtracted."""

    def generate(context: Context, builder: Builder, signature: Type, args: Values) -> Value:
        row, out = open_arrays(context, builder, signature, args)
        (columns,) = cgutils.unpack_tuple(builder, row.shape)
        sixteens = builder.udiv(columns, INT64(COLUMNS))
        with cgutils.for_range(builder, sixteens) as loop:
            at = move(builder, bytes_of(builder, row), builder.mul(loop.index, INT64(COLUMNS)))
            places = _places(builder, bytes_of(builder, out), loop.index, sixteens)
            for entries, place in zip(_entries(builder, at), places, strict=True):
                builder.store(entries, builder.bitcast(place, entries.type.as_pointer()), align=2)
        return context.get_dummy_value()

    return types.void(x, tables), generate


def _entries(builder: Builder, x: Value) -> list[Value]:
    """Return the tables of 16 columns: of five, of five, of four, and twice the last two.

    The first takes the last two for negative.
    """
    columns = [
        splat_value(builder, builder.sext(builder.load(move(builder, x, INT64(i))), INT16), FIVE)
        for i in range(COLUMNS)
    ]

    def sums(first: int, count: int) -> Value:
        signs = [[1 if key >> bit & 1 else -1 for key in range(FIVE)] for bit in range(count)]
        factors = zip(columns[first:], signs, strict=False)
        kind = columns[0].type
        return reduce(builder.add, [builder.mul(x, ir.Constant(kind, own)) for x, own in factors])

    *_, a, b = columns
    lasts = shuffle(builder, a, b, [0, FIVE])
    four = sums(10, 4)
    return [
        builder.sub(sums(0, 5), builder.add(a, b)),
        sums(5, 5),
        shuffle(builder, four, four, range(FOUR)),
        builder.add(lasts, lasts),
    ]


def _places(builder: Builder, tables: Value, index: Value, sixteens: Value) -> list[Value]:
    """Return where the tables of one of so many sixteens of columns are.

    Those of five columns of all sixteens come first, then all of four, then the last columns.
    """
    fives, fours = 2 * 2 * FIVE, 2 * FOUR
    first = move(builder, tables, builder.mul(index, INT64(fives)))
    rest = move(builder, tables, builder.mul(sixteens, INT64(fives)))
    lasts = move(builder, rest, builder.mul(sixteens, INT64(fours)))
    return [
        first,
        move(builder, first, INT64(2 * FIVE)),
        move(builder, rest, builder.mul(index, INT64(fours))),
        move(builder, lasts, builder.mul(index, INT64(2 * LAST))),
    ]


def _block_sums(unit: VectorUnit) -> Intrinsic:
    """Return the intrinsic ``add_block(planes, tables, alphas, place, totals)``.

    It writes the totals of a block of rows. planes are (octets, 1 to MOST_PLANES, 64), alphas
    (N, A); a place is the octets of a group, the terms of an alpha, and the number of the block.
    """

    def generate(context: Context, builder: Builder, signature: Type, args: Values) -> Value:
        chosen = [0, 1, 2, 4]
        kinds = types.void(*(signature.args[i] for i in chosen))
        arrays = open_arrays(context, builder, kinds, [args[i] for i in chosen])
        place = cgutils.unpack_tuple(builder, args[3])
        count = cgutils.unpack_tuple(builder, arrays[0].shape)[1]
        for planes in range(1, MOST_PLANES + 1):
            with builder.if_then(builder.icmp_unsigned("==", count, INT64(planes))):
                _WordBlock(unit, planes, builder, arrays, place[1]).generate(builder, place)
        return context.get_dummy_value()

    @intrinsic
    def add_block(
        _: Context, planes: Type, tables: Type, alphas: Type, place: Type, totals: Type
    ) -> Intrinsic:
        return types.void(planes, tables, alphas, place, totals), generate

    return add_block


class _WordBlock:
    """The products of one block of rows, span by span of each group."""

    def __init__(
        self, unit: VectorUnit, planes: int, builder: Builder, arrays: Values, terms: Value
    ) -> None:
        self._unit, self._planes = unit, planes
        self._keys, self._tables, alphas, self._totals = (
            bytes_of(builder, array) for array in arrays
        )
        self._octets = cgutils.unpack_tuple(builder, arrays[0].shape)[0]
        row_bytes = cgutils.unpack_tuple(builder, arrays[2].shape)[1]
        shape = INT64(planes), terms
        self._rows = RowScales(unit, builder, alphas, row_bytes, shape, IN_ORDER)
        self._words = ir.VectorType(INT16, 2 * unit.lanes)
        self._wide = ir.VectorType(INT64, unit.lanes // 2)

    def generate(self, builder: Builder, place: Values) -> None:
        """Write the totals; a place as ``_block_sums`` says."""
        size, terms, block = place
        totals = [_zero(builder, self._wide) for _ in range(ROWS // self._wide.count)]
        alphas = move(builder, self._rows.data, builder.mul(block, self._rows.block_bytes))
        place_of_group, step = cgutils.alloca_once_value(builder, alphas), INT64(SPAN_OCTETS)
        with cgutils.for_range_slice(builder, INT64(0), self._octets, size, INT64) as (begin, _):
            at = builder.load(place_of_group)
            scales = [
                self._rows.of_block(builder, at, builder.mul(INT64(plane), terms))[0]
                for plane in range(self._planes)
            ]
            end = lesser(builder, builder.add(begin, size), self._octets)
            with cgutils.for_range_slice(builder, begin, end, step, INT64) as (octet, _):
                octets = lesser(builder, builder.sub(end, octet), step)
                self._add_span(builder, octet, octets, scales, totals)
            builder.store(move(builder, at, self._rows.group_bytes), place_of_group)
        self._store(builder, totals)

    def _add_span(
        self,
        builder: Builder,
        first: Value,
        octets: Value,
        scales: Sequence[Values],
        totals: Values,
    ) -> None:
        """Add the products of a span of octets: 16 bits hold what it chooses."""
        sums = [[_zero(builder, self._words) for _ in range(2)] for _ in range(self._planes)]
        keys = move(builder, self._keys, builder.mul(first, INT64(self._planes * ROWS)))
        sixteens = builder.udiv(self._octets, INT64(2))
        start = builder.udiv(first, INT64(2))
        with cgutils.for_range(builder, builder.udiv(octets, INT64(2))) as loop:
            at = move(builder, keys, builder.mul(loop.index, INT64(2 * self._planes * ROWS)))
            index = builder.add(start, loop.index)
            tables = self._load(builder, _places(builder, self._tables, index, sixteens))
            for plane, own in enumerate(sums):
                self._look_up(builder, move(builder, at, INT64(ROWS * plane)), tables, own)
                coming = move(builder, at, INT64(AHEAD_BYTES + 2 * LINE_BYTES * plane))
                for line in range(2):
                    prefetch(builder, move(builder, coming, INT64(LINE_BYTES * line)), NEAR)
        chosen = [[builder.load(place) for place in plane] for plane in sums]
        for i, product in enumerate(self._scaled(builder, chosen, scales)):
            for half, part in enumerate(self._unit.widen(builder, product)):
                place = totals[2 * i + half]
                builder.store(builder.add(builder.load(place), part), place)

    def _load(self, builder: Builder, places: Values) -> list[Value]:
        """Return what is at ``_places``, each for all lanes."""
        *fives, four, lasts = places
        half = load_vector(builder, four, ir.VectorType(INT16, FOUR))
        lasts = builder.bitcast(lasts, INT16.as_pointer())
        alone = (builder.load(builder.gep(lasts, [INT64(i)])) for i in range(LAST))
        return [
            *(load_vector(builder, place, self._words) for place in fives),
            shuffle(builder, half, half, [*range(FOUR), *range(FOUR)]),
            *(splat_value(builder, value, self._words.count) for value in alone),
        ]

    def _look_up(self, builder: Builder, keys: Value, tables: Values, sums: Values) -> None:
        """Add what two octets of a plane choose."""
        fields = tuple(zip((0, 5, 10), tables[:3], strict=True))
        alone = tuple(zip((14, 15), tables[3:], strict=True))
        zero = ir.Constant(self._words, None)
        lines = (
            load_vector(builder, move(builder, keys, INT64(at)), self._unit.bytes_type)
            for at in (0, ROWS * self._planes)
        )
        for words, place in zip(unpack(builder, *lines), sums, strict=True):
            words = builder.bitcast(words, self._words)
            total = builder.load(place)
            for shift, entries in fields:
                key = builder.lshr(words, splat(self._words, shift)) if shift else words
                total = builder.add(total, self._unit.look_up_words(builder, [entries], key))
            for bit, value in alone:
                own = builder.and_(words, splat(self._words, 1 << bit))
                found = builder.icmp_signed("!=", own, zero)
                total = builder.add(total, builder.select(found, value, zero))
            builder.store(total, place)

    def _scaled(
        self, builder: Builder, chosen: list[Values], scales: Sequence[Values]
    ) -> list[Value]:
        """Return the sums over planes of what they choose times their scales, in int32."""
        nothing = [ir.Constant(self._words, None)] * 2
        factors = [*scales]
        if self._planes % 2:
            chosen, factors = [*chosen, nothing], [*factors, nothing]
        products = [ir.Constant(self._unit.totals_type, None)] * 4
        for p in range(0, len(chosen), 2):
            for half in range(2):
                pairs = unpack(builder, chosen[p][half], chosen[p + 1][half])
                others = unpack(builder, factors[p][half], factors[p + 1][half])
                for i, (a, b) in enumerate(zip(pairs, others, strict=True), 2 * half):
                    products[i] = self._unit.dot_int16(builder, products[i], a, b)
        return products

    def _store(self, builder: Builder, totals: Values) -> None:
        """Write the totals in the order of the rows.

        Those at 2 * i and 2 * i + 1 are of the rows 4 * i to 4 * i + 3 of every 16: the even ones,
        and the odd.
        """
        half = self._wide.count // 2
        for i in range(len(totals) // 2):
            even, odd = (builder.load(place) for place in totals[2 * i : 2 * i + 2])
            for lane in range(half):
                places = [2 * lane, 2 * half + 2 * lane, 2 * lane + 1, 2 * half + 2 * lane + 1]
                four = shuffle(builder, even, odd, places)
                at = move(builder, self._totals, INT64(8 * (16 * lane + 4 * i)))
                builder.store(four, builder.bitcast(at, four.type.as_pointer()), align=8)


def _zero(builder: Builder, kind: Type) -> Value:
    return cgutils.alloca_once_value(builder, ir.Constant(kind, None))
