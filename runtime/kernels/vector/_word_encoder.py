"""EncoderAttention where bytes are multiplied as words: its products are of panels of int16.

A weight of the softmax is a word, and no sum is over lanes: see ``_word_panels``.
"""

# mypy: disable-error-code="untyped-decorator,call-arg"
# An intrinsic is declared with the typing context as its first argument, and called without.

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from numba.extending import register_jitable

from edgellm.runtime.kernels._jit import PART_POLICY
from edgellm.runtime.kernels._scalar import (
    Int,
    stack_int8,
    stack_int16,
    stack_int32,
    stack_int64,
)
from edgellm.runtime.kernels.encoder_attention import quantize_query, weigh
from edgellm.runtime.kernels.simd._unit import VectorUnit
from edgellm.runtime.kernels.vector._attention_parts import (
    CODES,
    COPIED,
    KEYS,
    QUERIES,
    SCORES,
    STEPS,
    SUMS,
    Bytes,
    Ints,
    Place,
    Totals,
    copy_rows,
    round_up,
    write_mean,
)
from edgellm.runtime.kernels.vector._tiles import as_matrix
from edgellm.runtime.kernels.vector._word_panels import (
    COLUMNS,
    PAIR,
    PANEL_BYTES,
    SPAN,
    TOGETHER,
    WORD_BYTES,
    column_filler,
    pair_tile,
    row_filler,
    steps_of,
)

Words = npt.NDArray[np.int16]


def attend_with_words(unit: VectorUnit) -> Callable[..., None]:
    """Return ``attend`` as ``encoder_attention.attend_with`` does."""
    score, mix = score_with(unit), mix_with(unit)

    @register_jitable(**PART_POLICY)
    def attend(
        matrices: tuple[Ints, Bytes, Bytes, Totals],
        rows: tuple[Int, Int],
        place: Place,
        facts: tuple[Int, Int, Int],
        means: tuple[Totals, Ints],
    ) -> None:
        (query, key, value, y), (begin, end, column, last) = matrices, place
        first, count, dim, length = rows[0], rows[1] - rows[0], last - column, end - begin
        tall = round_up(count, TOGETHER)
        inner, across = round_up(dim, COLUMNS), round_up(length, COLUMNS)
        codes: Words = as_matrix(stack_int16(CODES)[: tall * inner], inner)
        dots: Ints = as_matrix(stack_int32(SCORES)[: tall * across], across)
        words: Words = as_matrix(stack_int16(SCORES)[: tall * across], across)
        totals: Totals = as_matrix(stack_int64(SUMS)[: tall * inner], inner)
        steps, divisors = stack_int64(STEPS), stack_int64(QUERIES)
        for t in range(count):
            head, row = query[first + t, column:last], codes[t, :dim]
            step = quantize_query(head, row, facts[0], (facts[1], facts[2]))
            steps[2 * t], steps[2 * t + 1] = step
        score(codes, key, place, dots)
        for t in range(count):
            divisors[t] = weigh(dots[t, :length], (steps[2 * t], steps[2 * t + 1]))
            copy_words(dots[t], length, words[t])
        mix(words, value, place, totals)
        for t in range(count):
            out = y[first + t, column:last]
            write_mean(totals[t, :dim], divisors[t], means[0], means[1], out)

    return attend


def copy_words(weights: Ints, count: Int, words: Words) -> None:
    """Copy so many weights, zeros behind."""
    for j in range(count):
        words[j] = weights[j]
    for j in range(count, words.shape[0]):
        words[j] = 0


def score_with(unit: VectorUnit) -> Callable[[Words, Bytes, Place, Ints], None]:
    """Return ``score(codes, key, place, dots)``: the dot products of rows of codes and all keys.

    What codes have behind the columns of a head is multiplied with zeros.
    """
    fill, multiply = row_filler(unit), pair_tile(unit, TOGETHER, adds=False)

    @register_jitable(**PART_POLICY)
    def score(codes: Words, key: Bytes, place: Place, dots: Ints) -> None:
        begin, end, column, last = place
        tall, inner = codes.shape
        copied, panel = stack_int8(COPIED), stack_int8(PANEL_BYTES)
        for first in range(begin, end, KEYS):
            after = min(first + KEYS, end)
            rows: Bytes = as_matrix(copied[: (after - first) * inner], inner)
            copy_rows(key, (first, after, column, last), rows)
            for n in range(0, after - first, COLUMNS):
                fill(rows, panel, n)
                for q in range(0, tall, TOGETHER):
                    multiply(codes, panel, dots, (q, 0, inner // PAIR, first - begin + n))

    return score


def mix_with(unit: VectorUnit) -> Callable[[Words, Bytes, Place, Totals], None]:
    """Return ``mix(words, value, place, totals)``: write the sums of values times weights."""
    fill, multiply = column_filler(unit), pair_tile(unit, TOGETHER, adds=True)

    @register_jitable(**PART_POLICY)
    def mix(words: Words, value: Bytes, place: Place, totals: Totals) -> None:
        begin, end, column, last = place
        tall, inner = totals.shape
        copied, panel = stack_int8(COPIED), stack_int8(PANEL_BYTES)
        totals[:] = 0
        for first in range(begin, end, SPAN):
            after = min(first + SPAN, end)
            steps, at = steps_of(after - first), WORD_BYTES * (first - begin)
            rows: Bytes = as_matrix(copied[: (after - first) * inner], inner)
            copy_rows(value, (first, after, column, last), rows)
            for n in range(0, inner, COLUMNS):
                fill(rows, panel, (0, steps, n))
                for q in range(0, tall, TOGETHER):
                    multiply(words, panel, totals, (q, at, steps, n))

    return mix
