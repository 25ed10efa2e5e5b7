"""The first pass of attention over the cache: the scores of one token, and the best ones."""

# mypy: disable-error-code="untyped-decorator"

from collections.abc import Callable
from functools import cache

import numpy as np
import numpy.typing as npt
from numba.extending import register_jitable

from edgellm.runtime.kernels._attention import MAX_HEAD_DIM, MAX_HEADS, best_score
from edgellm.runtime.kernels._jit import PART_POLICY
from edgellm.runtime.kernels._scalar import Int, Pair, stack_int8, stack_int32
from edgellm.runtime.kernels.simd._unit import VectorUnit
from edgellm.runtime.kernels.vector._attention_scores import (
    CHUNK,
    in_chunks,
    most_in_pack,
    score_tile,
)
from edgellm.runtime.kernels.vector._attention_tiles import ROW_BLOCK
from edgellm.runtime.kernels.vector._cache_codes import CacheCodes
from edgellm.runtime.kernels.vector._products import total

SLOTS = 2 * MAX_HEADS + 8
"""Of packs of four, which are used for three queries or more that share a head of the keys, but of
the first and the last head there may be one."""
PACKS, STARTS = SLOTS * MAX_HEAD_DIM, 4 * SLOTS
LEAST = -(2**62)
"""No score is as low."""

Bytes = npt.NDArray[np.int8]
Ints = npt.NDArray[np.int32]
Totals = npt.NDArray[np.int64]
Some = tuple[Int, Int, Int]
"""Heads: the first, how many, and how many share a head of the cache, which is a group. Or rows:
begin, end, and how many numbers each group has in arrays with one for each row."""


def next_group(i: Int, heads: Some) -> Pair:
    """Return the group of head i, and the first head of the next."""
    first, count, shared = heads
    group = (first + i) // shared
    return group, min((group + 1) * shared - first, count)


def copy_codes(source: Bytes, out: Bytes) -> None:
    """Copy all of some codes."""
    for k in range(source.shape[0]):
        out[k] = source[k]


def fill_packs(codes: Bytes, packs: Bytes, starts: Ints, heads: Some, pack: Some) -> None:
    """Copy codes as ``score_tile`` takes them, and write what each sum begins with.

    ``pack`` is how many queries it has, how many codes of each follow one another, and the bias.
    """
    size, chunk, bias = pack
    dim = codes.shape[0] // heads[1]
    slot: Int = 0
    i: Int = 0
    while i < heads[1]:
        own = min(next_group(i, heads)[1] - i, size)
        for q in range(own):
            query, place = codes[(i + q) * dim : (i + q + 1) * dim], packs[slot * dim :]
            for begin in range(0, dim, chunk):
                at = begin * size + q * chunk
                copy_codes(query[begin : begin + chunk], place[at : at + chunk])
            start = np.int32(-bias * total(query))
            for lane in range(4):
                starts[4 * (slot + q) + lane] = start
        slot += size
        i += own


@cache
def pass_of(unit: VectorUnit, size: int, cached: CacheCodes) -> Callable[..., None]:
    """Return ``run`` as ``score_over`` does, with packs of ``size`` queries.

    The same one for the same size: it is compiled once.
    """
    tile, chunked = score_tile(unit, size, cached), in_chunks(unit, size)
    bias, per_byte = cached.bias(unit), cached.per_byte

    @register_jitable(**PART_POLICY)
    def score(
        packs: Bytes, starts: Ints, key: Bytes, dots: Ints, place: tuple[Some, Int, Int, Int]
    ) -> None:
        """Score a block: all whole groups at once, and those of which others have heads alone."""
        heads, first, last, end = place
        slot: Int = 0
        i: Int = 0
        while i < heads[1]:
            group, after = next_group(i, heads)
            own = after - i
            groups = (heads[1] - i) // own if own == heads[2] else np.int64(1)
            rows = group, groups, own, first, last, end
            own_packs = packs[slot * key.shape[2] * per_byte :]
            tile(own_packs, starts[4 * slot :], key, dots[i * ROW_BLOCK :], rows)
            slot += groups * ((own + size - 1) // size * size)
            i += groups * own

    @register_jitable(**PART_POLICY)
    def run(
        codes: Bytes, key: Bytes, scales: Ints, dots: Ints, best: Totals, place: tuple[Some, Some]
    ) -> None:
        heads, (begin, end, width) = place
        packs, starts = stack_int8(PACKS), stack_int32(STARTS)
        chunk = CHUNK if chunked else key.shape[2] * per_byte
        fill_packs(codes, packs, starts, heads, (size, chunk, bias))
        for i in range(heads[1]):
            best[i] = LEAST
        for first in range(begin, end, ROW_BLOCK):
            last = min(first + ROW_BLOCK, end)
            own = dots[(first - begin) * heads[1] :]
            score(packs, starts, key, own, (heads, first, last, end))
            for i in range(heads[1]):
                column = (next_group(i, heads)[0] - heads[0] // heads[2]) * width
                some = own[i * ROW_BLOCK : i * ROW_BLOCK + last - first]
                best[i] = max(best[i], best_score(some, scales[column + first : column + last]))

    return run


def score_over(unit: VectorUnit, cached: CacheCodes) -> Callable[..., None]:
    """Return ``run(codes, key, scales, dots, best, (heads, rows))``.

    It writes the dot products of queries and keys by blocks, for each ROW_BLOCK rows as many of
    each head, and the best scores. ``scales`` are those of the keys, by group and row.
    """
    most = most_in_pack(unit)
    many, two, one = (pass_of(unit, size, cached) for size in (most, 2, 1))

    @register_jitable(**PART_POLICY)
    def run(
        codes: Bytes, key: Bytes, scales: Ints, dots: Ints, best: Totals, place: tuple[Some, Some]
    ) -> None:
        shared = place[0][2]
        if shared > most // 2:
            many(codes, key, scales, dots, best, place)
        elif shared == 2:
            two(codes, key, scales, dots, best, place)
        else:
            one(codes, key, scales, dots, best, place)

    return run
