"""Attention of one token whose rows of the cache are divided among threads, in three stages.

Each thread reads its rows of keys and values in one piece, for all heads: first the scores, of
which it notes the best; then, when it knows the best of all threads, the weighted sums of its
values; then of some heads the means, from the sums of all threads. Divided by heads, a thread reads
a piece of every row, with gaps, and threads that share a head of the cache read it twice.
"""

# mypy: disable-error-code="no-untyped-call,untyped-decorator,call-arg"
# Numba's internals have no types, and an intrinsic is declared with the typing context as its first
# argument, and called without.

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from numba.extending import register_jitable

from edgellm.runtime.kernels._attention import (
    MAX_HEAD_DIM,
    MAX_HEADS,
    NOTED_FACTS,
    NOTED_SCALES,
    NOTED_SCORES,
    NOTED_SUMS,
)
from edgellm.runtime.kernels._jit import PART_POLICY
from edgellm.runtime.kernels._scalar import Int, Pair, share, stack_int64
from edgellm.runtime.kernels.simd._unit import Intrinsic, VectorUnit
from edgellm.runtime.kernels.vector._attention_tiles import ROW_BLOCK, column_sums
from edgellm.runtime.kernels.vector._cache_codes import CacheCodes
from edgellm.runtime.kernels.vector._mix_pass import Sums
from edgellm.runtime.kernels.vector._prompt_attention import Cache
from edgellm.runtime.kernels.vector._score_pass import Some
from edgellm.runtime.kernels.vector._token_attention import (
    Bytes,
    Ints,
    Totals,
    copy_scales,
    mean_of_head,
    mix_heads,
    score_heads,
    scratch_of,
    write_peaks,
)
from edgellm.runtime.kernels.vector._views import as_int32, as_int64

BEST, STEPS, PEAKS, WEIGHTS = 0, MAX_HEADS, 3 * MAX_HEADS, 4 * MAX_HEADS
SUMS = NOTED_FACTS
DOTS = SUMS + NOTED_SUMS
SCALES = DOTS + NOTED_SCORES // 2
"""Where in its notes a thread has what; the rest are scales of keys and values."""

Notes = npt.NDArray[np.int64]
AllNotes = npt.NDArray[np.int64]
"""(threads, words)."""


def place_of(query: Ints, cache: Bytes, rows: Some, dim: Int) -> tuple[Some, Some]:
    """Return all heads, and rows of a thread counted from its first, as ``score_over`` takes."""
    begin, end, width = rows
    heads = query.shape[0] // dim
    return (np.int64(0), heads, heads // cache.shape[1]), (np.int64(0), end - begin, width)


def scales_in(notes: Notes, count: Int) -> tuple[Ints, Ints]:
    """Return where ``count`` scales of keys are, and of values."""
    scales = as_int32(notes[SCALES:])
    return scales[:count], scales[count:]


def write_largest(notes: AllNotes, place: Int, out: Totals) -> None:
    """Write the largest number of all threads at each of some places."""
    for i in range(out.shape[0]):
        out[i] = notes[0, place + i]
        for thread in range(1, notes.shape[0]):
            out[i] = max(out[i], notes[thread, place + i])


def add_to(totals: Sums, terms: Sums) -> None:
    """Add some numbers to as many."""
    for i in range(totals.shape[0]):
        totals[i] += terms[i]


def sums_in(unit: VectorUnit) -> Intrinsic:
    """Return what makes sums as a unit has them of words of the notes."""
    return as_int32 if unit.adds_fours else as_int64


def last_rows(cache: Cache, count: Int) -> Cache:
    """Return the last rows of keys and values, each with its absmax."""
    begin = cache[0].shape[0] - count
    return cache[0][begin:], cache[1][begin:], cache[2][begin:], cache[3][begin:]


def rows_of_thread(rows: Int, threads: Int) -> Int:
    """Return how many rows a thread has at most."""
    blocks = (rows + ROW_BLOCK - 1) // ROW_BLOCK
    return (blocks + threads - 1) // threads * ROW_BLOCK


def worth_dividing(rows: Int, threads: Int, sizes: Some) -> bool:
    """Tell whether rows are divided: each thread has a block, and room in its notes for the rest.

    Sizes are the heads, those of the cache, and their columns. (With two blocks each, two threads
    of Zen 5 take 0.93 of the time that heads do; with one 1.07, which is 0.4 us more.)
    """
    (heads, groups, dim), most = sizes, rows_of_thread(rows, threads)
    return (
        threads > 1
        and rows >= ROW_BLOCK * threads
        and heads <= MAX_HEADS
        and heads * dim <= NOTED_SUMS
        and heads * most <= NOTED_SCORES
        and 2 * groups * most <= NOTED_SCALES
    )


def score_rows(unit: VectorUnit, cached: CacheCodes) -> Callable[..., None]:
    """Return ``run(query, cache, rows, notes, scaling)``: the scores of a thread's rows.

    ``rows`` are begin, end, and how many numbers it notes of each head of the cache.
    """
    score, per_byte = score_heads(unit, cached), cached.per_byte

    @register_jitable(**PART_POLICY)
    def run(query: Ints, cache: Cache, rows: Some, notes: Notes, scaling: Pair) -> None:
        (begin, end, width), key = rows, cache[0]
        place = place_of(query, key, rows, key.shape[2] * per_byte)
        key_scales, value_scales = scales_in(notes, key.shape[1] * width)
        copy_scales(cache[1][begin:end], place[0], width, key_scales)
        copy_scales(cache[3][begin:end], place[0], width, value_scales)
        write_peaks(value_scales, place, notes[PEAKS:])
        facts = notes[BEST:], notes[STEPS:]
        score(query, key[begin:end], key_scales, as_int32(notes[DOTS:]), facts, place, scaling)

    return run


def mix_rows(unit: VectorUnit, cached: CacheCodes) -> Callable[..., None]:
    """Return ``run(query, cache, rows, thread, notes)``: the weighted sums of a thread's values."""
    mix, as_sums, per_byte = mix_heads(unit, cached), sums_in(unit), cached.per_byte

    @register_jitable(**PART_POLICY)
    def run(query: Ints, cache: Cache, rows: Some, thread: Int, notes: AllNotes) -> None:
        (begin, end, width), value = rows, cache[2]
        place = place_of(query, value, rows, value.shape[2] * per_byte)
        own = notes[thread]
        best, peaks = stack_int64(MAX_HEADS), stack_int64(MAX_HEADS)
        write_largest(notes, BEST, best[: place[0][1]])
        write_largest(notes, PEAKS, peaks[: value.shape[1]])
        sums, weights = as_sums(own[SUMS:DOTS]), own[WEIGHTS:SUMS]
        own[SUMS : SUMS + query.shape[0]] = 0
        weights[:] = 0
        facts = best, own[STEPS:], peaks
        scales = scales_in(own, value.shape[1] * width)
        mix(value[begin:end], scales, as_int32(own[DOTS:]), facts, (sums, weights), place)

    return run


def mean_over(unit: VectorUnit, cached: CacheCodes) -> Callable[..., None]:
    """Return ``run(heads, shared, dim, notes, y)``: the means of heads from begin to end."""
    mean, as_sums, stack = mean_of_head(unit, cached), sums_in(unit), scratch_of(unit)
    room, sums_of_column = column_sums(unit) * MAX_HEAD_DIM, column_sums(unit)

    @register_jitable(**PART_POLICY)
    def run(heads: Pair, shared: Int, dim: Int, notes: AllNotes, y: Totals) -> None:
        peaks, weights, sums = stack_int64(MAX_HEADS), stack_int64(2), stack(room)
        size = sums_of_column * dim
        write_largest(notes, PEAKS, peaks)
        for i in range(heads[0], heads[1]):
            total = sums[:size]
            total[:] = 0
            weights[:] = 0
            for thread in range(notes.shape[0]):
                own = notes[thread]
                add_to(total, as_sums(own[SUMS:DOTS])[i * size : (i + 1) * size])
                add_to(weights, own[WEIGHTS + 2 * i : WEIGHTS + 2 * i + 2])
            mean(total, weights, peaks[i // shared], y[i * dim : (i + 1) * dim])

    return run


def divided_rows(unit: VectorUnit, cached: CacheCodes) -> Callable[..., None]:
    """Return ``attend(stage, work, query, cache, notes, y, scaling)`` of one token.

    ``work`` are thread and threads; ``cache`` are keys and values, (L, H, D) each with its absmax,
    of the rows that are seen. All threads meet between stages, of which there are three.
    """
    score, mix, mean = (part(unit, cached) for part in (score_rows, mix_rows, mean_over))
    per_byte = cached.per_byte

    @register_jitable(**PART_POLICY)
    def attend(
        stage: Int,
        work: Pair,
        query: Ints,
        cache: Cache,
        notes: AllNotes,
        y: Totals,
        scaling: Pair,
    ) -> None:
        thread, threads = work
        length, groups, dim = cache[0].shape[0], cache[0].shape[1], cache[0].shape[2] * per_byte
        most = rows_of_thread(length, threads)
        rows = min(thread * most, length), min((thread + 1) * most, length), most
        heads = query.shape[0] // dim
        if stage == 0:
            score(query, cache, rows, notes[thread], scaling)
        elif stage == 1:
            mix(query, cache, rows, thread, notes)
        else:
            mean(share(heads, thread, threads), heads // groups, dim, notes, y)

    return attend
