"""Attention on a vector unit: all heads of a token pass over the cache.

The first pass reads keys in the order of memory, the second values, a block of rows after the
other and in it head by head; what the queries of a head share is read once. The weights of the
softmax have 15 bits: they are multiplied as two signed bytes or, where bytes are not multiplied in
fours, as words.

Values of the weight 0 are read as well. In a story of stories-bitnet 27 % of the weights of a head
are 0, but only 8 % are for all heads that share a row of the cache, and no four rows in line are
skipped by all; with random weights there are none.

Reading and computing overlap in part: one thread of a server of 2024 reads 4,096 positions in 310
us a layer, computes 300 when they are in its caches, and takes 500 for both. With both products by
AMX (a lane has four columns of one value, and three of four bytes of a weight are 0, so that values
are read as they are) it took 8 to 12 % less from memory, before keys were read row by row: 2 to 4 %
of a token, for as many lines again.
Scores are kept by blocks of rows: by heads, as many streams are written as there are heads, and
what they push out of the caches took a fifth of the time of the first pass.
"""

# mypy: disable-error-code="untyped-decorator,call-arg"
# An intrinsic is declared with the typing context as its first argument, and called without.

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from numba.extending import register_jitable

from edgellm.runtime.kernels._jit import PART_POLICY
from edgellm.runtime.kernels._scalar import Int, Pair
from edgellm.runtime.kernels.simd._unit import BLOCK, VectorUnit
from edgellm.runtime.kernels.vector._cache_codes import CacheCodes
from edgellm.runtime.kernels.vector._divided_rows import (
    AllNotes,
    divided_rows,
    last_rows,
    worth_dividing,
)
from edgellm.runtime.kernels.vector._prompt_attention import (
    LEAST_TOKENS,
    Cache,
    attend_prompt,
    block_attention,
    most_queries,
)
from edgellm.runtime.kernels.vector._score_pass import Some
from edgellm.runtime.kernels.vector._token_attention import few_tokens
from edgellm.runtime.kernels.vector._word_prompt import FEW_TOKENS, word_block_attention

NEVER = 1 << 62
"""So many tokens there are not."""

Ints = npt.NDArray[np.int32]
Totals = npt.NDArray[np.int64]


@register_jitable(**PART_POLICY)
def not_used(work: Some, query: Ints, cache: Cache, y: Totals, scaling: Pair, window: Int) -> None:
    """Stand for attention of many tokens where there is none."""


def attention_over(
    unit: VectorUnit, cached: CacheCodes, plain: Callable[..., None]
) -> Callable[..., None]:
    """Return ``attend(work, query, cache, y, (scaling, window), notes)`` over such a cache.

    ``work`` are thread, threads and stage. Where the columns of a head are no multiple of 64, the
    portable attention runs, ``plain``.
    """
    attend_few, attend_divided = few_tokens(unit, cached), divided_rows(unit, cached)
    attend_many, least = many_tokens(unit, cached)
    per_byte = cached.per_byte

    @register_jitable(**PART_POLICY)
    def attend(
        work: Some,
        query: Ints,
        cache: Cache,
        y: Totals,
        attributes: tuple[Pair, Int],
        notes: AllNotes,
    ) -> None:
        (thread, threads, stage), (scaling, window) = work, attributes
        length, groups, dim = cache[0].shape[0], cache[0].shape[1], cache[0].shape[2] * per_byte
        rows, heads = query.shape[0], query.shape[1] // dim
        seen = min(length, window) if window > 0 else length
        sizes = heads, groups, dim
        if rows == 1 and dim % BLOCK == 0 and worth_dividing(seen, threads, sizes):
            own = last_rows(cache, seen)
            attend_divided(stage, (thread, threads), query[0], own, notes, y[0], scaling)
            return
        if stage > 0:
            return
        if dim % BLOCK != 0:
            plain((thread, threads), query, cache, y, scaling, window)
            return
        most = most_queries(length, dim)
        if rows >= least and most >= heads // groups:
            attend_many((thread, threads, most), query, cache, y, scaling, window)
        else:
            attend_few((thread, threads), query, cache, y, scaling, window)

    return attend


def many_tokens(unit: VectorUnit, cached: CacheCodes) -> tuple[Callable[..., None], Int]:
    """Return the attention of many tokens, and from how many on it is faster."""
    if unit.adds_fours:
        return attend_prompt(block_attention(unit, cached), LEAST_TOKENS, cached), LEAST_TOKENS
    if unit.multiplies_words:
        return attend_prompt(word_block_attention(unit, cached), FEW_TOKENS, cached), FEW_TOKENS
    return not_used, NEVER
