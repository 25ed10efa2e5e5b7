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

from edgellm.runtime.kernels import attention as portable
from edgellm.runtime.kernels._jit import PART_POLICY
from edgellm.runtime.kernels._scalar import Int, Pair, share, stack_int32
from edgellm.runtime.kernels.simd._unit import BLOCK, VectorUnit
from edgellm.runtime.kernels.vector._attention_tiles import ROW_BLOCK
from edgellm.runtime.kernels.vector._prompt_attention import (
    LEAST_TOKENS,
    Cache,
    attend_prompt,
    block_attention,
    most_queries,
)
from edgellm.runtime.kernels.vector._score_pass import MAX_HEADS, Some
from edgellm.runtime.kernels.vector._token_attention import (
    SCORES,
    SCRATCH,
    attend_heads,
    copy_scales,
)
from edgellm.runtime.kernels.vector._word_prompt import FEW_TOKENS, word_block_attention

NEVER = 1 << 62
"""So many tokens there are not."""

Ints = npt.NDArray[np.int32]
Totals = npt.NDArray[np.int64]


@register_jitable(**PART_POLICY)
def not_used(work: Some, query: Ints, cache: Cache, y: Totals, scaling: Pair, window: Int) -> None:
    """Stand for attention of many tokens where there is none."""


def build(unit: VectorUnit) -> Callable[..., None]:
    """Return the kernel."""
    plain = register_jitable(**PART_POLICY)(portable.attention.py)
    attend = attend_heads(unit)
    attend_many, least = many_tokens(unit)

    def attention(
        thread: int,
        threads: int,
        query: npt.NDArray[np.int32],  # (T, M)
        key: npt.NDArray[np.int8],  # (L, H, D)
        key_absmax: npt.NDArray[np.int32],  # (L, H)
        value: npt.NDArray[np.int8],  # (L, H, D)
        value_absmax: npt.NDArray[np.int32],  # (L, H)
        y: npt.NDArray[np.int64],  # (T, M)
        scaling_mantissa: int,
        scaling_exponent: int,
        window: int,
    ) -> None:
        length, groups, dim = key.shape
        scaling = scaling_mantissa, scaling_exponent
        if dim % BLOCK != 0:
            scales = key_absmax, value_absmax
            plain(thread, threads, query, key, scales[0], value, scales[1], y, *scaling, window)
            return
        rows, heads = query.shape[0], query.shape[1] // dim
        most = most_queries(length, dim)
        if rows >= least and most >= heads // groups:
            work, cache = (thread, threads, most), (key, key_absmax, value, value_absmax)
            attend_many(work, query, cache, y, scaling, window)
            return
        by_rows = rows >= 2 * threads
        head, last_head = (0, heads) if by_rows else share(heads, thread, threads)
        first_row, row_step = (thread, threads) if by_rows else (0, 1)
        width = (length + ROW_BLOCK - 1) // ROW_BLOCK * ROW_BLOCK
        most = min(SCORES // width, MAX_HEADS)
        key_scales, value_scales = stack_int32(SCRATCH), stack_int32(SCRATCH)
        while head < last_head:
            some = head, min(most, last_head - head), heads // groups
            copy_scales(key_absmax, some, width, key_scales)
            copy_scales(value_absmax, some, width, value_scales)
            columns = slice(head * dim, (head + some[1]) * dim)
            for t in range(first_row, rows, row_step):
                end = length - rows + t + 1
                begin = max(end - window, 0) if window > 0 else 0
                caches, scales = (key, value), (key_scales, value_scales)
                place = begin, end, width
                attend(query[t, columns], y[t, columns], caches, scales, (some, place), scaling)
            head += some[1]

    return attention


def many_tokens(unit: VectorUnit) -> tuple[Callable[..., None], Int]:
    """Return the attention of many tokens, and from how many on it is faster."""
    if unit.adds_fours:
        return attend_prompt(block_attention(unit), LEAST_TOKENS), LEAST_TOKENS
    if unit.multiplies_words:
        return attend_prompt(word_block_attention(unit), FEW_TOKENS), FEW_TOKENS
    return not_used, NEVER
