"""Products of many tokens and packed weights with AMX: what is computed when, to stay in caches.

Activations are laid out as tiles for as many columns as a level-2 cache holds of all tokens. Each
panel of weights is unpacked once for all of them, a part at a time that a level-1 cache holds; the
sums of the panel wait in the level-2 cache meanwhile.
"""

# mypy: disable-error-code="untyped-decorator,call-arg"
# An intrinsic is declared with the typing context as its first argument, and called without.

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt
from numba.extending import register_jitable

from edgellm.runtime.kernels._jit import PART_POLICY
from edgellm.runtime.kernels._scalar import Int, Pair, share, stack_int8, stack_int32
from edgellm.runtime.kernels.simd._unit import BLOCK
from edgellm.runtime.kernels.vector._amx import (
    CONFIGURATION,
    ROW_BYTES,
    ROWS,
    configure,
    describe,
    release,
)
from edgellm.runtime.kernels.vector._laid_out_tiles import TILE_BYTES, Tile, copy_block
from edgellm.runtime.kernels.vector._last_block import lay_out_rest
from edgellm.runtime.kernels.vector._panels import ROW_GROUPS, Panels
from edgellm.runtime.kernels.vector._sums import SumsWriter, expect_sums
from edgellm.runtime.kernels.vector._tiles import as_matrix

Codes = npt.NDArray[np.int8]
Weights = npt.NDArray[np.generic]
Sums = npt.NDArray[np.int32]
Place = tuple[Int, Int, Int, Int, Int]
Product = Callable[[Codes, Weights, Sums], None]
Multiply = Callable[[Codes, Weights, Sums, Sums, Pair], None]

LEAST_TOKENS = 16
"""From so many tokens on, this is faster than other products."""
MOST_TOKENS = 256
"""Tokens that a panel serves before the next one is unpacked."""
TILES_BYTES = 1 << 20
"""Activations that are laid out at once: half of the level-2 caches of processors with AMX."""
SPAN = 10 * BLOCK
"""Columns of a panel: 20 of the 48 KiB of a level-1 cache, through which the rest passes."""
EXPECTED = 24
"""So many tokens ahead rows of results are prefetched: each is in another page of the memory."""
DIRECT_SPAN = 16 * BLOCK
"""Up to so many columns are one panel, whose sums are results at once."""
NEAR_BYTES = 40 << 10
"""So many bytes of activations stay in a level-1 cache together with a panel of as few columns."""
PANEL_ROWS = ROW_GROUPS * ROWS
PANEL_BYTES = max(SPAN, DIRECT_SPAN) * PANEL_ROWS
SUM_COUNT = MOST_TOKENS * PANEL_ROWS


def lay_out(x: Codes, first: Int, blocks: Int, tiles: Codes) -> None:
    """Lay out 64 * blocks columns of x from ``first`` on; zeros fill the last tile of tokens."""
    tokens = x.shape[0]
    for t in range(tokens):
        place = t // ROWS * blocks * TILE_BYTES + t % ROWS * ROW_BYTES
        for block in range(blocks):
            copy_block(x, t, first + block * BLOCK, tiles, place + block * TILE_BYTES)
    for t in range(tokens, (tokens + ROWS - 1) // ROWS * ROWS):
        place = t // ROWS * blocks * TILE_BYTES + t % ROWS * ROW_BYTES
        for block in range(blocks):
            for i in range(ROW_BYTES):
                tiles[place + block * TILE_BYTES + i] = 0


@cache
def sweep() -> Callable[[Codes, Codes, Sums, Place, Int], None]:
    """Return ``run(tiles, panel, sums, place, fresh)``: a panel times tokens; see ``Tile``.

    ``place`` has the first register of tokens and the one behind the last, how many blocks of
    columns are laid out, at which of them the panel begins, and how many it has.
    """
    two, one = Tile(2).build(), Tile(1).build()
    near_two, near_one = Tile(2, near=True).build(), Tile(1, near=True).build()

    @register_jitable(**PART_POLICY)
    def run(tiles: Codes, panel: Codes, sums: Sums, place: Place, fresh: Int) -> None:
        group, end, blocks, first, count = place
        distance = blocks * TILE_BYTES
        near = end * distance <= NEAR_BYTES
        while group < end:
            at = (group * ROWS, first * TILE_BYTES + group * distance, distance, count)
            if group + 1 < end:
                if near:
                    near_two(tiles, panel, sums, at, fresh)
                else:
                    two(tiles, panel, sums, at, fresh)
            elif near:
                near_one(tiles, panel, sums, at, fresh)
            else:
                one(tiles, panel, sums, at, fresh)
            group += 2

    return run


@dataclass(frozen=True)
class Source:
    """Weights that are unpacked to panels.

    Attributes:
        block: columns of a block, a multiple of 64.
        fill: ``fill(weight, panel, n, first, count)`` unpacks so many blocks of a panel's rows.
        fill_last: ``fill_last(weight, panel, n)`` unpacks the last block where the columns are no
            whole blocks, for what ``lay_out_rest`` makes of x.
        last_size: ``last_size(weight, whole)`` is the columns of each of its groups of 64 that
            are weights, where there are so many whole blocks.
    """

    block: int
    fill: Callable[[Weights, Codes, Int, Int, Int], None]
    fill_last: Callable[[Weights, Codes, Int], None]
    last_size: Callable[[Weights, Int], Int]


def blocked_multiply(source: Source, write: SumsWriter) -> Multiply:
    """Return ``multiply(x, weight, acc, gate, (begin, end))``.

    It computes the rows of weights from ``begin`` to ``end``, whole panels.
    """
    part_of, last_of = multiply_part(source, write), multiply_last(source, write)
    block, last_size = source.block, source.last_size
    last_bytes, groups = MOST_TOKENS * block, block // BLOCK

    @register_jitable(**PART_POLICY)
    def multiply_some(x: Codes, weight: Weights, acc: Sums, gate: Sums, rows: Pair) -> None:
        whole = x.shape[1] // block
        most = TILES_BYTES // ((x.shape[0] + ROWS - 1) // ROWS * ROWS * block)
        parts = (whole + most - 1) // most
        for part in range(parts):
            part_of(x, weight, acc, gate, rows, share(whole, part, parts))
        if whole * block < x.shape[1]:
            last: Codes = as_matrix(stack_int8(last_bytes), block)
            lay_out_rest(x, last, groups, last_size(weight, whole))
            last_of(last[: x.shape[0]], weight, acc, gate, rows, whole > 0)

    @register_jitable(**PART_POLICY)
    def multiply(x: Codes, weight: Weights, acc: Sums, gate: Sums, rows: Pair) -> None:
        shapes = stack_int8(CONFIGURATION)
        describe(shapes, ROWS, ROWS)
        configure(shapes)
        for first in range(0, x.shape[0], MOST_TOKENS):
            end = min(first + MOST_TOKENS, x.shape[0])
            multiply_some(x[first:end], weight, acc[first:end], gate[first:end], rows)
        release()

    return multiply


def multiply_part(source: Source, write: SumsWriter) -> Callable[..., None]:
    """Return ``multiply(x, weight, acc, gate, rows, (first, end))``: so many blocks of columns."""
    fill, run, write_sums = source.fill, sweep(), writer(write)
    block, groups_of, most_blocks = source.block, source.block // BLOCK, SPAN // source.block
    direct_blocks = 0 if write.gated else DIRECT_SPAN // block

    @register_jitable(**PART_POLICY)
    def multiply_directly(
        tiles: Codes, panel: Codes, sums: Sums, acc: Sums, gate: Sums, place: tuple[Int, Int]
    ) -> None:
        """Write the sums of whole registers of tokens where they belong, and copy the others."""
        n, blocks = place
        whole = acc.shape[0] // ROWS
        run(tiles, panel, acc[:, n:], (0, whole, blocks, 0, blocks), 1)
        if whole * ROWS < acc.shape[0]:
            run(tiles, panel, sums, (whole, whole + 1, blocks, 0, blocks), 1)
            write_sums(sums, acc, gate, (n, whole * ROWS), False)

    @register_jitable(**PART_POLICY)
    def multiply_spans(
        x: Codes, weight: Weights, acc: Sums, gate: Sums, rows: Pair, blocks: Pair
    ) -> None:
        tiles, panel = stack_int8(TILES_BYTES), stack_int8(PANEL_BYTES)
        sums: Sums = as_matrix(stack_int32(SUM_COUNT), PANEL_ROWS)
        groups = (x.shape[0] + ROWS - 1) // ROWS
        first, count = blocks[0], blocks[1] - blocks[0]
        lay_out(x, first * block, count * groups_of, tiles)
        direct = first == 0 and count <= direct_blocks
        spans = 1 if direct else (count + most_blocks - 1) // most_blocks
        for n in range(rows[0], rows[1], PANEL_ROWS):
            for span in range(spans):
                begin, end = share(count, span, spans)
                fill(weight, panel, n, first + begin, end - begin)
                place = (0, groups, count * groups_of, begin * groups_of, (end - begin) * groups_of)
                if direct:
                    multiply_directly(tiles, panel, sums, acc, gate, (n, place[2]))
                else:
                    run(tiles, panel, sums, place, span == 0)
            if not direct:
                write_sums(sums, acc, gate, (n, 0), first > 0)

    return multiply_spans


def multiply_last(source: Source, write: SumsWriter) -> Callable[..., None]:
    """Return ``multiply(x, weight, acc, gate, rows, add)``: the last block of columns alone."""
    fill, run, write_sums = source.fill_last, sweep(), writer(write)
    blocks = source.block // BLOCK
    tiles_bytes, panel_bytes = MOST_TOKENS * source.block, PANEL_ROWS * source.block

    @register_jitable(**PART_POLICY)
    def multiply(x: Codes, weight: Weights, acc: Sums, gate: Sums, rows: Pair, add: bool) -> None:
        tiles, panel = stack_int8(tiles_bytes), stack_int8(panel_bytes)
        sums: Sums = as_matrix(stack_int32(SUM_COUNT), PANEL_ROWS)
        groups = (x.shape[0] + ROWS - 1) // ROWS
        lay_out(x, 0, blocks, tiles)
        for n in range(rows[0], rows[1], PANEL_ROWS):
            fill(weight, panel, n)
            run(tiles, panel, sums, (0, groups, blocks, 0, blocks), 1)
            write_sums(sums, acc, gate, (n, 0), add)

    return multiply


def writer(write: SumsWriter) -> Callable[[Sums, Sums, Sums, Pair, bool], None]:
    """Return ``run(sums, acc, gate, (n, t), add)``: write the sums of a panel from token t on."""
    set_sums, add_sums = write.build(add=False), write.build(add=True)
    gated = write.gated

    @register_jitable(**PART_POLICY)
    def run(sums: Sums, acc: Sums, gate: Sums, place: Pair, add: bool) -> None:
        n, first = place
        for t in range(first, acc.shape[0]):
            if t + EXPECTED < acc.shape[0]:
                expect_sums(acc, t + EXPECTED, n)
                if gated:
                    expect_sums(gate, t + EXPECTED, n)
            if add:
                add_sums(sums, acc, gate, t, n)
            else:
                set_sums(sums, acc, gate, t, n)

    return run


def rows_of(layout: Panels) -> Source:
    """Return weights whose rows are packed by blocks, the last one at the end of the row."""
    unpack, block, block_bytes = layout.fill(), layout.columns, layout.block_bytes
    columns_per_byte = BLOCK // block_bytes

    @register_jitable(**PART_POLICY)
    def fill(weight: Weights, panel: Codes, n: Int, first: Int, count: Int) -> None:
        unpack(weight, panel, n, first * block_bytes, count)

    @register_jitable(**PART_POLICY)
    def fill_last(weight: Weights, panel: Codes, n: Int) -> None:
        unpack(weight, panel, n, weight.shape[1] - block_bytes, 1)

    @register_jitable(**PART_POLICY)
    def last_size(weight: Weights, whole: Int) -> Int:
        return (weight.shape[1] - whole * block_bytes) * columns_per_byte

    return Source(block, fill, fill_last, last_size)


def with_matrix_tiles(source: Source, product: Product) -> Product:
    """Return a product that uses tiles where there are rows and tokens enough, else ``product``."""
    multiply = blocked_multiply(source, SumsWriter())

    @register_jitable(**PART_POLICY)
    def matrix_product(x: Codes, weight: Weights, acc: Sums) -> None:
        rows = weight.shape[0] // PANEL_ROWS * PANEL_ROWS if x.shape[0] >= LEAST_TOKENS else 0
        if rows > 0:
            multiply(x, weight, acc, acc, (0, rows))
        product(x, weight[rows:], acc[:, rows:])

    return matrix_product
